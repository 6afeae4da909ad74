// A compiled artefact: what its manifest.txt says, and its functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "image.h"

namespace gluonface {

// One compiled input shape: the function that takes canvases (batch, height, width, 3) of bytes.
struct Bucket {
    std::string function;
    int batch = 0;
    int height = 0;
    int width = 0;
};

// Functions that look at the faces that were found (Python's FaceFunctions): of each bucket one for each batch of them.
struct FaceFunctions {
    int levels = 0;      // of the pyramid, which the bucket's function gives behind scores and boxes
    int num_points = 0;  // of a face: five, or those of the manifest
    std::vector<int> batches;  // growing

    // Name of the function of a bucket for so many faces.
    static std::string function(const Bucket& bucket, int batch);
};

// The part of an artefact's manifest that a program needs: a key and its values a line (gluonface writes it beside
// manifest.json; Manifest.to_lines says what there is).
struct Manifest {
    std::string model;
    std::string task;  // "detection" or "landmarks"
    std::string architecture;
    std::string library;
    std::vector<std::string> features;  // flags of /proc/cpuinfo that the code needs
    std::vector<Bucket> buckets;
    int size = 0;             // long side in pixels that the net is meant for
    double score_thresh = 0;  // of a detector
    std::optional<FaceFunctions> faces;  // of a detector that looks at its faces once more
    // Of a landmark net, where the crop has the five points in shares of its side.
    std::vector<Point> template_points;
    // Of a landmark net, or a detector of dense points: their number, and those whose mean each of the five is.
    int num_points = 0;
    std::vector<std::vector<int>> five;
    std::string sha256;  // of the library
    std::uint64_t bytes = 0;
};

// Reads and checks the manifest of the artefact in a folder. Throws Error.
Manifest read_manifest(const std::string& folder);

// What one function gave: floats, row by row, of a shape whose first axis is the batch.
struct Array {
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};

// The functions of an artefact. One thread at a time may use a network.
class Network {
public:
    // Loads the artefact in a folder, after its library was found to be what the manifest says, and looks up all of its
    // functions. Throws Error.
    explicit Network(const std::string& folder);
    ~Network();
    Network(Network&&) noexcept;

    const Manifest& manifest() const { return manifest_; }

    // Runs the function of a bucket on canvases of its size, at most as many as its batch has; the rest is black. Where
    // there are functions that look at faces, those of at least that score on the canvases go through them, and
    // landmarks (B, n, 2K) stand in the place of the levels, -1 for all others. Throws Error.
    std::vector<Array> run(const Bucket& bucket, const std::vector<Image>& canvases, double score_thresh = 0);

private:
    struct Machine;
    Manifest manifest_;
    std::unique_ptr<Machine> machine_;
};

// Which batch to take where so many are left, one at least: the largest that they fill, or else the smallest.
std::size_t choose_batch(const std::vector<int>& batches, std::size_t left);

// How many threads networks use; call it before the first one runs.
void set_threads(int count);

}  // namespace gluonface
