#include "artifact.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>
#include <set>
#include <sstream>

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/tvm_ffi.h>

#include "error.h"

namespace gluonface {
namespace {

namespace ffi = tvm::ffi;

constexpr int kFormat = 1;
constexpr std::size_t kMaxManifestBytes = std::size_t{1} << 20;
// No artefact comes near them; a damaged manifest is not to ask for gigabytes. Those of faces are Python's, too.
constexpr int kMaxBatch = 4096;
constexpr int kMaxSide = 16384;
constexpr int kMaxLevels = 16;
constexpr int kMaxPoints = 4096;
// TVM's generated code may expect this of an address; and TVM's number of the allocator that keeps what it freed.
constexpr std::size_t kAlignment = 64;
constexpr int kPooledAllocator = 2;

// ---- SHA-256 (FIPS 180-4) -------------------------------------------------------------------------------------------

class Sha256 {
public:
    void add(const std::uint8_t* data, std::size_t size) {
        length_ += size;
        for (std::size_t i = 0; i < size; ++i) {
            block_[used_++] = data[i];
            if (used_ == block_.size()) compress();
        }
    }

    std::string hex() {
        const std::uint64_t bits = length_ * 8;
        const std::uint8_t end = 0x80;
        const std::uint8_t zero = 0;
        add(&end, 1);
        while (used_ != 56) add(&zero, 1);
        for (int i = 0; i < 8; ++i)
            block_[56 + static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(bits >> (56 - 8 * i));
        compress();
        std::string text;
        for (const std::uint32_t word : state_) {
            for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
        }
        return text;
    }

private:
    static std::uint32_t turn(std::uint32_t x, int by) { return x >> by | x << (32 - by); }

    // The first 32 bits behind the point of a root of a prime: all constants of the standard are such.
    static std::uint32_t fraction(long double root) {
        return static_cast<std::uint32_t>(std::floor((root - std::floor(root)) * 4294967296.0L));
    }

    static std::array<std::uint32_t, 64> constants() {
        std::array<std::uint32_t, 64> found{};
        std::size_t count = 0;
        for (int n = 2; count < found.size(); ++n) {
            bool prime = true;
            for (int d = 2; d * d <= n; ++d) prime = prime && n % d != 0;
            if (prime) found[count++] = fraction(std::cbrt(static_cast<long double>(n)));
        }
        return found;
    }

    static std::array<std::uint32_t, 8> start() {
        std::array<std::uint32_t, 8> found{};
        const int primes[] = {2, 3, 5, 7, 11, 13, 17, 19};
        for (std::size_t i = 0; i < found.size(); ++i)
            found[i] = fraction(std::sqrt(static_cast<long double>(primes[i])));
        return found;
    }

    void compress() {
        static const std::array<std::uint32_t, 64> k = constants();
        std::uint32_t w[64];
        for (std::size_t i = 0; i < 16; ++i) {
            w[i] = static_cast<std::uint32_t>(block_[4 * i]) << 24 |
                   static_cast<std::uint32_t>(block_[4 * i + 1]) << 16 |
                   static_cast<std::uint32_t>(block_[4 * i + 2]) << 8 | block_[4 * i + 3];
        }
        for (std::size_t i = 16; i < 64; ++i) {
            const std::uint32_t low = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3;
            const std::uint32_t high = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + low + w[i - 7] + high;
        }
        auto s = state_;
        for (std::size_t i = 0; i < 64; ++i) {
            const std::uint32_t one = turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25);
            const std::uint32_t first = s[7] + one + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
            const std::uint32_t zero = turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22);
            const std::uint32_t second = zero + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            std::rotate(s.begin(), s.end() - 1, s.end());
            s[4] += first;
            s[0] = first + second;
        }
        for (std::size_t i = 0; i < 8; ++i) state_[i] += s[i];
        used_ = 0;
    }

    std::array<std::uint32_t, 8> state_ = start();
    std::array<std::uint8_t, 64> block_{};
    std::size_t used_ = 0;
    std::uint64_t length_ = 0;
};

// ---- the manifest ---------------------------------------------------------------------------------------------------

// The values of one line, taken one after the other.
class Line {
public:
    Line(std::string where, const std::string& text) : where_(std::move(where)), words_(text) { words_ >> key_; }

    const std::string& key() const { return key_; }
    bool more() { return !(words_ >> std::ws).eof(); }

    [[noreturn]] void wrong(const std::string& expected) const {
        throw Error(where_ + ": " + key_ + ": expected " + expected +
                    "; the manifest is damaged, get the artefact again");
    }

    std::string word() {
        std::string value;
        if (!(words_ >> value)) wrong("another value");
        return value;
    }

    int count(int least = 1, int most = 999'999'999) {
        const std::string text = word();
        // Nine digits are no overflow.
        const bool digits = text.size() <= 9 && text.find_first_not_of("0123456789") == std::string::npos;
        if (!digits || std::stoi(text) < least || std::stoi(text) > most) {
            wrong("a whole number from " + std::to_string(least) + " to " + std::to_string(most) + ", got " + text);
        }
        return std::stoi(text);
    }

    std::uint64_t size() {
        const std::string text = word();
        if (text.size() > 18 || text.find_first_not_of("0123456789") != std::string::npos) wrong("a size, got " + text);
        return std::stoull(text);
    }

    double number() {
        const std::string text = word();
        std::istringstream stream(text);
        stream.imbue(std::locale::classic());
        double value = 0;
        if (!(stream >> value) || !stream.eof() || !std::isfinite(value)) wrong("a number, got " + text);
        return value;
    }

    void done() {
        if (more()) wrong("no more values");
    }

private:
    std::string where_;
    std::istringstream words_;
    std::string key_;
};

bool is_plain_name(const std::string& name) {
    const bool plain = std::all_of(name.begin(), name.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '.' || c == '_' || c == '-' || c == '+';
    });
    return plain && !name.empty() && name[0] != '.';
}

void read_line(Line& line, Manifest& manifest) {
    const std::string& key = line.key();
    if (key == "format") {
        if (line.count() != kFormat) line.wrong(std::to_string(kFormat) + ", an artefact of this version of gluonface");
    } else if (key == "model") {
        manifest.model = line.word();
    } else if (key == "task") {
        manifest.task = line.word();
        if (manifest.task != "detection" && manifest.task != "landmarks") line.wrong("detection or landmarks");
    } else if (key == "architecture") {
        manifest.architecture = line.word();
    } else if (key == "features") {
        while (line.more()) manifest.features.push_back(line.word());
    } else if (key == "library") {
        manifest.library = line.word();
        manifest.bytes = line.size();
        manifest.sha256 = line.word();
        if (!is_plain_name(manifest.library)) line.wrong("the name of a file in the artefact");
    } else if (key == "bucket") {
        Bucket bucket;
        bucket.function = line.word();
        bucket.batch = line.count(1, kMaxBatch);
        bucket.height = line.count(1, kMaxSide);
        bucket.width = line.count(1, kMaxSide);
        manifest.buckets.push_back(bucket);
    } else if (key == "size") {
        manifest.size = line.count();
    } else if (key == "score_thresh") {
        manifest.score_thresh = line.number();
    } else if (key == "scheme") {
        line.word();
    } else if (key == "points") {
        manifest.num_points = line.count();
    } else if (key == "template") {
        for (int i = 0; i < 5; ++i) {
            const double x = line.number();
            manifest.template_points.push_back({x, line.number()});
        }
    } else if (key == "five") {
        std::vector<int> part{line.count(0)};
        while (line.more()) part.push_back(line.count(0));
        manifest.five.push_back(part);
    } else if (key == "faces") {
        FaceFunctions faces;
        faces.levels = line.count(1, kMaxLevels);
        faces.num_points = line.count(1, kMaxPoints);
        do {
            faces.batches.push_back(line.count(1, kMaxBatch));
        } while (line.more());
        manifest.faces = std::move(faces);
    } else {
        line.wrong("a known key");
    }
    line.done();
}

// A manifest that reads well may still contradict itself.
void check_sense(const std::string& where, const Manifest& manifest) {
    const auto require = [&](bool holds, const std::string& what) {
        if (!holds) throw Error(where + ": expected " + what + "; the manifest is damaged, get the artefact again");
    };
    require(!manifest.model.empty() && !manifest.task.empty() && !manifest.library.empty(), "model, task and library");
    require(!manifest.buckets.empty() && manifest.size > 0, "at least one bucket, and a size");
    // A detector has them where its points are dense.
    if (manifest.num_points > 0) require(manifest.five.size() == 5, "five times five, with points");
    for (const auto& part : manifest.five) {
        for (const int index : part) require(index < manifest.num_points, "indices of points in five");
    }
    if (manifest.faces) {
        const std::vector<int>& batches = manifest.faces->batches;
        require(manifest.task == "detection", "functions for faces of a detector only");
        require(std::adjacent_find(batches.begin(), batches.end(), std::greater_equal<>()) == batches.end(),
                "batches of faces that grow");
        // Of other points nobody knows the five that they stand for.
        const int given = manifest.faces->num_points;
        require(given == 5 || given == manifest.num_points,
                "faces of 5 points or as many as points says, got " + std::to_string(given));
    }
    if (manifest.task == "landmarks") {
        require(manifest.num_points > 0 && manifest.template_points.size() == 5, "points, and a template of five points");
        for (const Bucket& bucket : manifest.buckets) {
            require(bucket.width == manifest.size && bucket.height == manifest.size, "crops of the size of the net");
        }
    }
}

// ---- this machine ---------------------------------------------------------------------------------------------------

#if defined(__x86_64__) || defined(_M_X64)
constexpr const char* kArchitecture = "x86_64";
constexpr const char* kFeaturesKey = "flags";
#elif defined(__aarch64__) || defined(_M_ARM64)
constexpr const char* kArchitecture = "aarch64";
constexpr const char* kFeaturesKey = "Features";
#else
constexpr const char* kArchitecture = "";
constexpr const char* kFeaturesKey = "";
#endif

void check_machine(const std::string& where, const Manifest& manifest) {
    const std::string wanted = manifest.architecture == "arm64" ? "aarch64" : manifest.architecture;
    if (*kArchitecture != '\0' && wanted != kArchitecture) {
        throw Error(where + ": compiled for " + wanted + ", this program is for " + kArchitecture);
    }
    std::ifstream file("/proc/cpuinfo");
    for (std::string text; std::getline(file, text);) {
        std::istringstream words(text);
        std::string word;
        if (!(words >> word) || word != kFeaturesKey) continue;
        std::set<std::string> features;
        while (words >> word) features.insert(word);
        for (const std::string& feature : manifest.features) {
            if (features.count(feature) == 0) throw Error(where + ": compiled for a processor with " + feature);
        }
        return;
    }
}

void check_library(const std::string& path, const Manifest& manifest) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(path + ": cannot be read");
    Sha256 hash;
    std::uint64_t size = 0;
    std::vector<char> chunk(std::size_t{1} << 16);
    while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) || file.gcount() > 0) {
        hash.add(reinterpret_cast<const std::uint8_t*>(chunk.data()), static_cast<std::size_t>(file.gcount()));
        size += static_cast<std::uint64_t>(file.gcount());
    }
    if (size != manifest.bytes || hash.hex() != manifest.sha256) {
        throw Error(path + ": is damaged or another one than the manifest says; get the artefact again");
    }
}

// ---- tensors --------------------------------------------------------------------------------------------------------

struct AlignedMemory {
    void AllocData(DLTensor* tensor) {
        const std::size_t size = (ffi::GetDataSize(*tensor) + kAlignment - 1) / kAlignment * kAlignment;
        tensor->data = std::aligned_alloc(kAlignment, size);
        if (tensor->data == nullptr) throw Error("no memory for a canvas of " + std::to_string(size) + " bytes");
    }
    void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

Array to_array(const ffi::Tensor& tensor, const std::string& where) {
    const DLTensor* raw = tensor.GetDLTensorPtr();
    if (raw->dtype.code != kDLFloat || raw->dtype.bits != 32 || raw->dtype.lanes != 1) {
        throw Error(where + ": expected arrays of float32 from the library");
    }
    Array array;
    array.shape.assign(raw->shape, raw->shape + raw->ndim);
    std::size_t count = 1;
    for (const std::int64_t side : array.shape) count *= static_cast<std::size_t>(side);
    const auto* values = reinterpret_cast<const float*>(static_cast<const char*>(raw->data) + raw->byte_offset);
    array.values.assign(values, values + count);
    return array;
}

void require_shape(const Array& array, const std::vector<std::int64_t>& shape, const std::string& what) {
    if (array.shape != shape) throw Error(what + " from the library, of another shape than the manifest says");
}

}  // namespace

std::string FaceFunctions::function(const Bucket& bucket, int batch) {
    return bucket.function + "_f" + std::to_string(batch);
}

Manifest read_manifest(const std::string& folder) {
    const std::string path = folder + "/manifest.txt";
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(folder + ": expected an artefact, that is a folder with manifest.txt (unpack a zip first)");
    Manifest manifest;
    std::set<std::string> seen;
    std::size_t bytes = 0;
    int number = 0;
    for (std::string text; std::getline(file, text);) {
        bytes += text.size() + 1;
        if (bytes > kMaxManifestBytes) throw Error(path + ": is too large to be a manifest");
        Line line(path + ", line " + std::to_string(++number), text);
        if (number == 1 && line.key() != "format") line.wrong("format first");
        if (line.key() != "bucket" && line.key() != "five" && !seen.insert(line.key()).second)
            line.wrong("the key once");
        read_line(line, manifest);
    }
    check_sense(path, manifest);
    return manifest;
}

struct Network::Machine {
    ffi::Module executable;
    ffi::Module machine;

    ffi::Function function(const std::string& name, const std::string& model) const {
        const ffi::Optional<ffi::Function> found = machine->GetFunction(name);
        if (!found.has_value()) throw Error(model + ": " + name + ": the library has no such function");
        return found.value();
    }

    // Landmarks (B, n, 2K) of the faces of so many canvases together, the others being black; -1 for what is none, too
    // weak or without area. Outputs are scores, boxes and the levels.
    Array landmarks(const Manifest& manifest, const Bucket& bucket, std::size_t canvases, const Array& scores,
                    const Array& boxes, const ffi::Array<ffi::Tensor>& outputs, double score_thresh) const {
        const std::string where = manifest.model + ": " + bucket.function;
        if (scores.shape.size() != 2) throw Error(where + ": expected scores (B, n) from the library");
        const auto rows = static_cast<std::size_t>(scores.shape[1]);
        require_shape(boxes, {scores.shape[0], scores.shape[1], 4}, where + ": expected boxes (B, n, 4)");
        const auto width = static_cast<std::size_t>(manifest.faces->num_points) * 2;
        Array found{{scores.shape[0], scores.shape[1], static_cast<std::int64_t>(width)}, {}};
        found.values.assign(scores.values.size() * width, -1.0F);
        std::vector<std::size_t> faces;
        for (std::size_t i = 0; i < canvases * rows; ++i) {
            const float* box = boxes.values.data() + 4 * i;
            const bool wanted = scores.values[i] >= std::max(score_thresh, 0.0);
            if (wanted && box[2] > box[0] && box[3] > box[1]) faces.push_back(i);
        }
        for (std::size_t start = 0; start < faces.size();) {
            const std::vector<int>& batches = manifest.faces->batches;
            const int batch = batches[choose_batch(batches, faces.size() - start)];
            const std::size_t count = std::min(faces.size() - start, static_cast<std::size_t>(batch));
            ffi::Tensor rois = ffi::Tensor::FromNDAlloc(AlignedMemory(), {batch, 5}, DLDataType{kDLFloat, 32, 1},
                                                        DLDevice{kDLCPU, 0});
            auto* row = static_cast<float*>(rois.data_ptr());
            std::fill(row, row + 5 * static_cast<std::size_t>(batch), -1.0F);
            for (std::size_t i = start; i < start + count; ++i, row += 5) {
                row[0] = static_cast<float>(faces[i] / rows);
                std::copy_n(boxes.values.data() + 4 * faces[i], 4, row + 1);
            }
            std::vector<ffi::AnyView> arguments{rois};
            for (std::size_t i = 2; i < outputs.size(); ++i) {
                arguments.emplace_back(outputs[static_cast<std::int64_t>(i)]);
            }
            const std::string name = FaceFunctions::function(bucket, batch);
            ffi::Any result;
            function(name, manifest.model)
                .CallPacked(arguments.data(), static_cast<std::int32_t>(arguments.size()), &result);
            const auto given = result.cast<ffi::Array<ffi::Tensor>>();
            if (given.size() != 1) throw Error(where + ": expected points from " + name);
            const Array points = to_array(given[0], where);
            require_shape(points, {batch, manifest.faces->num_points, 2}, where + ": expected points (R, K, 2)");
            for (std::size_t i = 0; i < count; ++i) {
                std::copy_n(points.values.data() + i * width, width, found.values.data() + faces[start + i] * width);
            }
            start += count;
        }
        return found;
    }
};

Network::Network(const std::string& folder) : manifest_(read_manifest(folder)) {
    check_machine(folder, manifest_);
    const std::string path = folder + "/" + manifest_.library;
    check_library(path, manifest_);
    try {
        ffi::Module executable = ffi::Module::LoadFromFile(path);
        ffi::Module machine = executable->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
        machine->GetFunction("vm_initialization")
            .value()(static_cast<int>(kDLCPU), 0, kPooledAllocator, static_cast<int>(kDLCPU), 0, kPooledAllocator);
        machine_ = std::make_unique<Machine>(Machine{executable, machine});
    } catch (const std::exception& error) {
        throw Error(path + ": cannot be loaded: " + error.what());
    }
    // Now, not at the first photo that needs it.
    for (const Bucket& bucket : manifest_.buckets) {
        machine_->function(bucket.function, manifest_.model);
        if (!manifest_.faces) continue;
        for (const int batch : manifest_.faces->batches) {
            machine_->function(FaceFunctions::function(bucket, batch), manifest_.model);
        }
    }
}

Network::~Network() = default;
Network::Network(Network&&) noexcept = default;

std::vector<Array> Network::run(const Bucket& bucket, const std::vector<Image>& canvases, double score_thresh) {
    const auto pixels = static_cast<std::size_t>(bucket.width) * static_cast<std::size_t>(bucket.height) * 3;
    if (canvases.size() > static_cast<std::size_t>(bucket.batch)) throw Error(bucket.function + ": too many canvases");
    const std::string where = manifest_.model + ": " + bucket.function;
    try {
        ffi::Tensor input = ffi::Tensor::FromNDAlloc(AlignedMemory(), {bucket.batch, bucket.height, bucket.width, 3},
                                                     DLDataType{kDLUInt, 8, 1}, DLDevice{kDLCPU, 0});
        auto* data = static_cast<std::uint8_t*>(input.data_ptr());
        std::memset(data, 0, pixels * static_cast<std::size_t>(bucket.batch));
        for (std::size_t i = 0; i < canvases.size(); ++i) {
            if (canvases[i].width != bucket.width || canvases[i].height != bucket.height) {
                throw Error(where + ": expected a canvas of another size");
            }
            std::memcpy(data + i * pixels, canvases[i].pixels.data(), pixels);
        }
        const ffi::Function function = machine_->function(bucket.function, manifest_.model);
        const auto outputs = function(input).cast<ffi::Array<ffi::Tensor>>();
        // The levels stay where they are.
        const std::size_t levels = manifest_.faces ? static_cast<std::size_t>(manifest_.faces->levels) : 0;
        if (manifest_.faces && outputs.size() != 2 + levels) {
            throw Error(where + ": expected scores, boxes and " + std::to_string(levels) + " levels from the library");
        }
        std::vector<Array> arrays;
        for (std::size_t i = 0; i + levels < outputs.size(); ++i) {
            arrays.push_back(to_array(outputs[static_cast<std::int64_t>(i)], where));
            if (arrays.back().shape.empty() || arrays.back().shape[0] != bucket.batch) {
                throw Error(where + ": expected a row for each canvas from the library");
            }
        }
        if (manifest_.faces) {
            arrays.push_back(machine_->landmarks(manifest_, bucket, canvases.size(), arrays[0], arrays[1], outputs,
                                                 score_thresh));
        }
        return arrays;
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        throw Error(where + " failed: " + error.what());
    }
}

std::size_t choose_batch(const std::vector<int>& batches, std::size_t left) {
    const auto is_filled = [&](int batch) { return static_cast<std::size_t>(batch) <= left; };
    std::size_t best = 0;
    for (std::size_t i = 1; i < batches.size(); ++i) {
        const bool larger = batches[i] > batches[best];
        const bool filled = is_filled(batches[best]);
        if (is_filled(batches[i]) ? !filled || larger : !filled && !larger) best = i;
    }
    return best;
}

void set_threads(int count) {
    // TVM reads both when it makes its pool of threads, and would pin them to the first cores.
    setenv("TVM_NUM_THREADS", std::to_string(count).c_str(), 1);
    setenv("TVM_BIND_THREADS", "0", 0);
}

}  // namespace gluonface
