// Faces in photos: a compiled detector, a compiled landmark net, and what they find.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "artifact.h"
#include "image.h"

namespace gluonface {

// Head pose in degrees (AFLW2000-3D's convention): positive yaw turns the nose to the viewer's left, positive pitch looks
// up, positive roll tilts clockwise.
struct Pose {
    float yaw = 0, pitch = 0, roll = 0;
};

// A vertex of a mesh in pixels of the photo, z from the tip of the nose, smaller nearer to the camera.
struct Vertex {
    float x = 0, y = 0, z = 0;
};

// In pixels of the photo.
struct Face {
    float x1 = 0, y1 = 0, x2 = 0, y2 = 0;
    float score = 0;
    // Left eye, right eye, nose, left and right mouth corner, left being the viewer's; empty where the net gives none.
    // Of a detector of dense points, those that they stand for.
    std::vector<Point> five;
    std::vector<Point> landmarks;
    std::optional<Pose> pose;  // where the net gives it
    std::vector<Vertex> mesh;  // empty where the net gives none
};

class Detector {
public:
    // The artefact in a folder; the threshold of its manifest unless another is given. Throws Error.
    explicit Detector(const std::string& folder, std::optional<double> score_thresh = std::nullopt);

    const std::string& name() const { return network_.manifest().model; }

    // The faces of a photo, best first. Throws Error.
    std::vector<Face> operator()(const Image& photo);

private:
    const Bucket& bucket_for(const Image& photo) const;

    Network network_;
    double score_thresh_;
};

class LandmarkNet {
public:
    // The artefact in a folder. Throws Error.
    explicit LandmarkNet(const std::string& folder);

    // Finds the dense landmarks of faces by their five points where they have them, else by their boxes. A face whose
    // first crop was off by more than 3 % of its side is looked at once more. Throws Error.
    void operator()(const Image& photo, std::vector<Face>& faces);

private:
    std::vector<std::vector<Point>> find(const Image& photo, const std::vector<std::vector<Point>>& fives);
    std::vector<Point> template_points() const;
    double offset(const std::vector<Point>& five, const std::vector<Point>& found) const;

    Network network_;
};

// The line that `gluonface detect --json` writes for a photo.
std::string to_json(const std::string& path, const Image& photo, const std::string& model,
                    const std::vector<Face>& faces);

}  // namespace gluonface
