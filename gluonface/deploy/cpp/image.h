// Photos and what is done to their pixels before a network sees them.
//
// Coordinates are continuous: an image covers [0, width] x [0, height], the centre of its first pixel is (0.5, 0.5).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace gluonface {

// Pixels of three bytes, red, green, blue, row by row.
struct Image {
    int width = 0;
    int height = 0;
    std::vector<std::uint8_t> pixels;

    Image() = default;
    // Black.
    Image(int width, int height)
        : width(width),
          height(height),
          pixels(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3) {}

    const std::uint8_t* at(int x, int y) const { return pixels.data() + offset(x, y); }
    std::uint8_t* at(int x, int y) { return pixels.data() + offset(x, y); }

private:
    std::size_t offset(int x, int y) const {
        return (static_cast<std::size_t>(y) * static_cast<std::size_t>(width) + static_cast<std::size_t>(x)) * 3;
    }
};

struct Point {
    double x = 0;
    double y = 0;
};

// x' = a x + b y + c, y' = d x + e y + f.
struct Affine {
    double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;

    Point operator()(Point p) const { return {a * p.x + b * p.y + c, d * p.x + e * p.y + f}; }
    // Throws Error when the plane is flattened.
    Affine inverse() const;
};

// The similarity transform that takes points nearest to others in the least squares sense (Umeyama 1991, without
// reflection). Throws Error when all points lie in one place.
Affine similarity_transform(const std::vector<Point>& from, const std::vector<Point>& to);

// A photo fitted into a canvas: aspect kept, top left, the rest black.
struct Letterbox {
    double scale_x = 1;
    double scale_y = 1;
    int resized_width = 0;
    int resized_height = 0;

    Letterbox(int width, int height, int canvas_width, int canvas_height);

    Point to_photo(Point on_canvas) const { return {on_canvas.x / scale_x, on_canvas.y / scale_y}; }
};

// Reads a PPM (P6, 8 bits) or, where it was compiled with libjpeg, a JPEG, upright. Throws Error.
Image read_image(const std::string& path);

// Shrinking averages over areas, enlarging is bilinear: bit for bit what OpenCV's INTER_AREA and INTER_LINEAR give.
Image resize(const Image& image, int width, int height);

// The photo on a canvas of a size, see Letterbox.
Image apply_letterbox(const Image& image, const Letterbox& box, int canvas_width, int canvas_height);

// The photo under a transform from photo to result, bilinear; where it shrinks more than twofold the photo is averaged
// over areas first. Black outside the photo.
Image warp(const Image& image, const Affine& matrix, int width, int height);

}  // namespace gluonface
