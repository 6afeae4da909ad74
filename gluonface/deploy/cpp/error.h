// The one kind of error that this library throws on purpose.
#pragma once

#include <stdexcept>
#include <string>

namespace gluonface {

// Says what was expected, what came, and of which file.
class Error : public std::runtime_error {
public:
    explicit Error(const std::string& message) : std::runtime_error(message) {}
};

}  // namespace gluonface
