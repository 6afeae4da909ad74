#include "faces.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "error.h"

namespace gluonface {
namespace {

// gluonface.analysis.REALIGN_FROM, and gluonface.geometry.FIVE_IN_BOX: where the five points lie in a box.
constexpr double kRealignFrom = 0.03;
constexpr Point kFiveInBox[] = {{0.27, 0.389}, {0.73, 0.389}, {0.5, 0.583}, {0.299, 0.748}, {0.701, 0.748}};

void require(bool holds, const std::string& where, const std::string& what) {
    if (!holds) throw Error(where + ": expected " + what + " from the library");
}

Point rounded(Point p) {
    // As `Faces` keeps them.
    return {static_cast<float>(p.x), static_cast<float>(p.y)};
}

// Whether points are spread enough to align by.
bool apart(const std::vector<Point>& points, double least) {
    Point mean;
    const auto count = static_cast<double>(points.size());
    for (const Point& p : points) {
        mean.x += p.x / count;
        mean.y += p.y / count;
    }
    double x = 0;
    double y = 0;
    for (const Point& p : points) {
        x += (p.x - mean.x) * (p.x - mean.x) / count;
        y += (p.y - mean.y) * (p.y - mean.y) / count;
    }
    return std::sqrt(std::max(x, y)) >= least;  // false for what is no number
}

// The five points to align a face by.
std::vector<Point> five_to_align_by(const Face& face) {
    const double side = std::max(face.x2 - face.x1, face.y2 - face.y1);
    if (face.five.size() == 5 && apart(face.five, std::max(0.05, 0.05 * side))) return face.five;
    const double width = std::max(1.0F, face.x2 - face.x1);
    const double height = std::max(1.0F, face.y2 - face.y1);
    std::vector<Point> five;
    for (const Point& share : kFiveInBox) five.push_back({face.x1 + share.x * width, face.y1 + share.y * height});
    return five;
}

// The five points that dense ones stand for.
std::vector<Point> five_of(const std::vector<Point>& landmarks, const Manifest& manifest) {
    std::vector<Point> five;
    for (const std::vector<int>& part : manifest.five) {
        Point mean;
        for (const int index : part) {
            mean.x += landmarks[static_cast<std::size_t>(index)].x / static_cast<double>(part.size());
            mean.y += landmarks[static_cast<std::size_t>(index)].y / static_cast<double>(part.size());
        }
        five.push_back(mean);
    }
    return five;
}

// The shortest decimal that is the same float32, without an exponent where that can be: 160.0, not 1.6e+02.
std::string number(double value) {
    const auto single = static_cast<float>(value);
    char text[32];
    std::string shown;
    for (int digits = 1; digits <= 9; ++digits) {
        std::snprintf(text, sizeof text, "%.*g", digits, static_cast<double>(single));
        if (std::strtof(text, nullptr) != single) continue;
        const bool plain = std::strchr(text, 'e') == nullptr;
        if (plain || shown.empty()) shown = text;
        if (plain) break;
    }
    // Python tells a float from an int.
    return shown.find_first_of(".e") == std::string::npos ? shown + ".0" : shown;
}

std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') {
            out += '\\';
            out += c;
        } else if (static_cast<unsigned char>(c) < 0x20) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", static_cast<unsigned>(c));
            out += escaped;
        } else {
            out += c;
        }
    }
    return out + '"';
}

std::string mesh_json(const std::vector<Vertex>& mesh) {
    std::string out;
    for (const Vertex& v : mesh) {
        out += (out.empty() ? "[" : ", [") + number(v.x) + ", " + number(v.y) + ", " + number(v.z) + "]";
    }
    return "[" + out + "]";
}

std::string points_json(const std::vector<Point>& points) {
    std::string out;
    for (const Point& p : points) {
        out += (out.empty() ? "[" : ", [") + number(p.x) + ", " + number(p.y) + "]";
    }
    return "[" + out + "]";
}

}  // namespace

// ---- detector -------------------------------------------------------------------------------------------------------

Detector::Detector(const std::string& folder, std::optional<double> score_thresh)
    : network_(folder), score_thresh_(score_thresh.value_or(network_.manifest().score_thresh)) {
    if (network_.manifest().task != "detection") {
        throw Error(folder + ": expected the artefact of a detector, got " + name() +
                    ", a landmark net's (--landmarks)");
    }
}

// The canvas on which the photo comes out nearest to the size that the net is meant for, the smallest of several; of
// one canvas the smallest batch.
const Bucket& Detector::bucket_for(const Image& photo) const {
    const Manifest& manifest = network_.manifest();
    const double wanted = static_cast<double>(manifest.size) / std::max(photo.width, photo.height);
    const Bucket* best = nullptr;
    double best_distance = std::numeric_limits<double>::infinity();
    for (const Bucket& bucket : manifest.buckets) {
        const double scale = std::min(1.0 * bucket.height / photo.height, 1.0 * bucket.width / photo.width);
        const double distance = std::nearbyint(std::abs(std::log(scale / wanted)) * 1e6);
        const auto smaller = [&] {
            const long long pixels = 1LL * bucket.width * bucket.height;
            const long long others = 1LL * best->width * best->height;
            return pixels < others || (pixels == others && bucket.batch < best->batch);
        };
        if (best == nullptr || distance < best_distance || (distance == best_distance && smaller())) {
            best = &bucket;
            best_distance = distance;
        }
    }
    return *best;
}

std::vector<Face> Detector::operator()(const Image& photo) {
    const Bucket& bucket = bucket_for(photo);
    const Letterbox box(photo.width, photo.height, bucket.width, bucket.height);
    const std::vector<Array> outputs = network_.run(
        bucket, {apply_letterbox(photo, box, bucket.width, bucket.height)}, score_thresh_);
    require(outputs.size() >= 2 && outputs[0].shape.size() == 2, name(), "scores (B, n) and boxes (B, n, 4)");
    const auto count = static_cast<std::size_t>(outputs[0].shape[1]);
    require(outputs[1].shape.size() == 3 && static_cast<std::size_t>(outputs[1].shape[1]) == count &&
                outputs[1].shape[2] == 4,
            name(), "boxes (B, n, 4)");
    std::size_t num_points = 0;
    if (outputs.size() > 2) {
        require(outputs[2].shape.size() == 3 && static_cast<std::size_t>(outputs[2].shape[1]) == count &&
                    outputs[2].shape[2] % 2 == 0,
                name(), "landmarks (B, n, 2K)");
        num_points = static_cast<std::size_t>(outputs[2].shape[2]) / 2;
    }
    // A mesh (B, n, V, 3) has an axis more than anything else.
    const bool has_mesh = outputs.size() > 3 && outputs.back().shape.size() == 4;
    const bool has_pose = outputs.size() > (has_mesh ? 4 : 3);
    if (has_pose) {
        require(outputs[3].shape.size() == 3 && static_cast<std::size_t>(outputs[3].shape[1]) == count &&
                    outputs[3].shape[2] == 3,
                name(), "pose (B, n, 3)");
    }
    std::size_t num_vertices = 0;
    if (has_mesh) {
        const Array& mesh = outputs.back();
        require(static_cast<std::size_t>(mesh.shape[1]) == count && mesh.shape[3] == 3, name(), "mesh (B, n, V, 3)");
        num_vertices = static_cast<std::size_t>(mesh.shape[2]);
    }
    std::vector<Face> faces;
    for (std::size_t i = 0; i < count; ++i) {
        const float score = outputs[0].values[i];
        if (score < 0 || score < score_thresh_ || !std::isfinite(score)) continue;
        const float* corners = outputs[1].values.data() + 4 * i;
        const Point low = box.to_photo({corners[0], corners[1]});
        const Point high = box.to_photo({corners[2], corners[3]});
        Face face;
        face.score = score;
        face.x1 = static_cast<float>(std::clamp(low.x, 0.0, 1.0 * photo.width));
        face.y1 = static_cast<float>(std::clamp(low.y, 0.0, 1.0 * photo.height));
        face.x2 = static_cast<float>(std::clamp(high.x, 0.0, 1.0 * photo.width));
        face.y2 = static_cast<float>(std::clamp(high.y, 0.0, 1.0 * photo.height));
        if (!(face.x2 > face.x1 && face.y2 > face.y1)) continue;
        std::vector<Point> points;
        for (std::size_t k = 0; k < num_points; ++k) {
            const float* point = outputs[2].values.data() + (i * num_points + k) * 2;
            points.push_back(box.to_photo({point[0], point[1]}));
        }
        if (num_points != 5 && num_points == static_cast<std::size_t>(network_.manifest().num_points)) {
            for (const Point& point : five_of(points, network_.manifest())) face.five.push_back(rounded(point));
        }
        for (Point& point : points) point = rounded(point);
        (num_points == 5 ? face.five : face.landmarks) = std::move(points);
        if (has_pose) {
            // A letterbox shifts and scales: no angle changes.
            const float* angles = outputs[3].values.data() + 3 * i;
            face.pose = Pose{angles[0], angles[1], angles[2]};
        }
        for (std::size_t v = 0; v < num_vertices; ++v) {
            const float* vertex = outputs.back().values.data() + (i * num_vertices + v) * 3;
            const Point place = rounded(box.to_photo({vertex[0], vertex[1]}));
            // Depth is scaled as the width is.
            const double depth = vertex[2] / box.scale_x;
            face.mesh.push_back({static_cast<float>(place.x), static_cast<float>(place.y), static_cast<float>(depth)});
        }
        faces.push_back(std::move(face));
    }
    std::stable_sort(faces.begin(), faces.end(), [](const Face& a, const Face& b) { return a.score > b.score; });
    return faces;
}

// ---- landmarks ------------------------------------------------------------------------------------------------------

LandmarkNet::LandmarkNet(const std::string& folder) : network_(folder) {
    if (network_.manifest().task != "landmarks") {
        throw Error(folder + ": expected the artefact of a landmark net, got " + network_.manifest().model);
    }
}

std::vector<Point> LandmarkNet::template_points() const {
    std::vector<Point> points;
    for (const Point& share : network_.manifest().template_points) {
        points.push_back({share.x * network_.manifest().size, share.y * network_.manifest().size});
    }
    return points;
}

// How far off a crop by `five` is if the face is where `found` says, in shares of its side: the mean distance that the
// template's points move from one alignment to the other.
double LandmarkNet::offset(const std::vector<Point>& five, const std::vector<Point>& found) const {
    const std::vector<Point> points = template_points();
    const Affine crop = similarity_transform(five, points);
    const Affine back = similarity_transform(found, points).inverse();
    double sum = 0;
    for (const Point& p : points) {
        const Point moved = crop(back(p));
        sum += std::hypot(moved.x - p.x, moved.y - p.y);
    }
    return sum / static_cast<double>(points.size()) / network_.manifest().size;
}

std::vector<std::vector<Point>> LandmarkNet::find(const Image& photo, const std::vector<std::vector<Point>>& fives) {
    const Manifest& manifest = network_.manifest();
    const auto num_points = static_cast<std::size_t>(manifest.num_points);
    std::vector<int> batches;
    for (const Bucket& bucket : manifest.buckets) batches.push_back(bucket.batch);
    std::vector<std::vector<Point>> landmarks;
    for (std::size_t start = 0; start < fives.size();) {
        const Bucket& bucket = manifest.buckets[choose_batch(batches, fives.size() - start)];
        const std::size_t count = std::min(fives.size() - start, static_cast<std::size_t>(bucket.batch));
        std::vector<Affine> backs;
        std::vector<Image> crops;
        for (std::size_t i = start; i < start + count; ++i) {
            const Affine matrix = similarity_transform(fives[i], template_points());
            crops.push_back(warp(photo, matrix, manifest.size, manifest.size));
            backs.push_back(matrix.inverse());
        }
        const std::vector<Array> outputs = network_.run(bucket, crops);
        require(!outputs.empty() && outputs[0].shape.size() == 3 && outputs[0].shape[1] == manifest.num_points &&
                    outputs[0].shape[2] == 2,
                manifest.model, "landmarks (B, K, 2)");
        for (std::size_t i = 0; i < count; ++i) {
            std::vector<Point> points;
            for (std::size_t k = 0; k < num_points; ++k) {
                const float* point = outputs[0].values.data() + (i * num_points + k) * 2;
                points.push_back(rounded(backs[i]({point[0], point[1]})));
            }
            landmarks.push_back(std::move(points));
        }
        start += count;
    }
    return landmarks;
}

void LandmarkNet::operator()(const Image& photo, std::vector<Face>& faces) {
    std::vector<std::vector<Point>> fives;
    for (const Face& face : faces) fives.push_back(five_to_align_by(face));
    std::vector<std::vector<Point>> landmarks = find(photo, fives);
    std::vector<std::size_t> again;
    std::vector<std::vector<Point>> better;
    for (std::size_t i = 0; i < faces.size(); ++i) {
        std::vector<Point> found = five_of(landmarks[i], network_.manifest());
        if (apart(found, 0.05) && offset(fives[i], found) > kRealignFrom) {
            again.push_back(i);
            better.push_back(std::move(found));
        }
    }
    std::vector<std::vector<Point>> second = find(photo, better);
    for (std::size_t i = 0; i < again.size(); ++i) landmarks[again[i]] = std::move(second[i]);
    for (std::size_t i = 0; i < faces.size(); ++i) faces[i].landmarks = std::move(landmarks[i]);
}

// ---- output ---------------------------------------------------------------------------------------------------------

std::string to_json(const std::string& path, const Image& photo, const std::string& model,
                    const std::vector<Face>& faces) {
    std::string out = "{\"image\": " + quoted(path) + ", \"width\": " + std::to_string(photo.width) +
                      ", \"height\": " + std::to_string(photo.height) + ", \"model\": " + quoted(model) +
                      ", \"faces\": [";
    for (std::size_t i = 0; i < faces.size(); ++i) {
        const Face& face = faces[i];
        out += (i == 0 ? "{" : ", {");
        out += "\"box\": [" + number(face.x1) + ", " + number(face.y1) + ", " + number(face.x2) + ", " +
               number(face.y2) + "], \"score\": " + number(face.score);
        if (!face.five.empty()) out += ", \"landmarks5\": " + points_json(face.five);
        if (!face.landmarks.empty()) out += ", \"landmarks\": " + points_json(face.landmarks);
        if (!face.mesh.empty()) out += ", \"mesh\": " + mesh_json(face.mesh);
        if (face.pose) {
            out += ", \"pose\": {\"yaw\": " + number(face.pose->yaw) + ", \"pitch\": " + number(face.pose->pitch) +
                   ", \"roll\": " + number(face.pose->roll) + "}";
        }
        out += "}";
    }
    return out + "]}";
}

}  // namespace gluonface
