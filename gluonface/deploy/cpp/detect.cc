// Finds the faces in photos with compiled artefacts and prints a line of JSON for each photo, with the keys of
// `gluonface detect --json`.
//
//     detect ARTEFACT [--landmarks ARTEFACT] [--score S] [--threads N] PHOTO...
//
// Exit status: 0 all well, 2 a wrong argument, artefact or photo (the other photos are still looked at).

#include <cstdlib>
#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "error.h"
#include "faces.h"

namespace {

constexpr const char* kUsage = "usage: detect ARTEFACT [--landmarks ARTEFACT] [--score S] [--threads N] PHOTO...";

struct Arguments {
    std::string detector;
    std::string landmarks;
    std::optional<double> score;
    int threads = 1;
    std::vector<std::string> photos;
};

double number(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0' || !(value >= 0 && value <= 1024)) {
        throw gluonface::Error(option + ": expected a number from 0, got " + text + "\n" + kUsage);
    }
    return value;
}

Arguments parse(const std::vector<std::string>& words) {
    Arguments arguments;
    std::vector<std::string> paths;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        const bool is_option = word == "--landmarks" || word == "--score" || word == "--threads";
        if (!is_option) {
            if (word.rfind("--", 0) == 0) throw gluonface::Error("no option " + word + "\n" + kUsage);
            paths.push_back(word);
            continue;
        }
        if (++i == words.size()) throw gluonface::Error(word + ": expected a value\n" + kUsage);
        if (word == "--landmarks") arguments.landmarks = words[i];
        if (word == "--score") arguments.score = number(word, words[i]);
        if (word == "--threads") arguments.threads = static_cast<int>(number(word, words[i]));
    }
    if (paths.size() < 2 || arguments.threads < 1) throw gluonface::Error(kUsage);
    arguments.detector = paths[0];
    arguments.photos.assign(paths.begin() + 1, paths.end());
    return arguments;
}

int run(const std::vector<std::string>& words) {
    const Arguments arguments = parse(words);
    gluonface::set_threads(arguments.threads);
    gluonface::Detector detector(arguments.detector, arguments.score);
    std::optional<gluonface::LandmarkNet> landmarks;
    if (!arguments.landmarks.empty()) landmarks.emplace(arguments.landmarks);
    int status = 0;
    for (const std::string& path : arguments.photos) {
        try {
            const gluonface::Image photo = gluonface::read_image(path);
            std::vector<gluonface::Face> faces = detector(photo);
            if (landmarks) (*landmarks)(photo, faces);
            std::cout << gluonface::to_json(path, photo, detector.name(), faces) << std::endl;
        } catch (const gluonface::Error& error) {
            std::cerr << "detect: " << error.what() << "\n";
            status = 2;
        }
    }
    return status;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return run({argv + 1, argv + argc});
    } catch (const std::exception& error) {
        std::cerr << "detect: " << error.what() << "\n";
        return 2;
    }
}
