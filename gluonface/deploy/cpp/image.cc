#include "image.h"

#include <algorithm>
#include <cctype>
#include <cfloat>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>

#ifdef GLUONFACE_JPEG
#include <csetjmp>

#include <jpeglib.h>
#endif

#include "error.h"

namespace gluonface {
namespace {

// As gluonface.image has it: larger photos are refused before they are decoded.
constexpr long long kMaxPixels = 100'000'000;
constexpr std::size_t kMaxBytes = std::size_t{512} << 20;

std::uint8_t to_byte(float value) {
    // Halves go to the even neighbour, as everywhere in OpenCV.
    return static_cast<std::uint8_t>(std::clamp(std::nearbyintf(value), 0.0F, 255.0F));
}

std::vector<std::uint8_t> read_bytes(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Error(path + ": cannot be read");
    std::vector<std::uint8_t> bytes;
    std::vector<char> chunk(std::size_t{1} << 20);
    while (file.read(chunk.data(), static_cast<std::streamsize>(chunk.size())) || file.gcount() > 0) {
        bytes.insert(bytes.end(), chunk.begin(), chunk.begin() + file.gcount());
        if (bytes.size() > kMaxBytes) throw Error(path + ": more than the 512 MiB allowed");
    }
    if (file.bad() || bytes.empty()) throw Error(path + ": is empty or cannot be read");
    return bytes;
}

void check_pixels(const std::string& path, long long width, long long height) {
    if (width < 1 || height < 1 || width > INT_MAX || height > INT_MAX || width * height > kMaxPixels) {
        throw Error(path + ": expected a photo of 1 to " + std::to_string(kMaxPixels) + " pixels, got " +
                    std::to_string(width) + " x " + std::to_string(height));
    }
}

// ---- PPM ------------------------------------------------------------------------------------------------------------

// A number of a PPM's header, after white space and comments.
long long ppm_number(const std::string& path, const std::vector<std::uint8_t>& bytes, std::size_t& at) {
    while (at < bytes.size() && (std::isspace(bytes[at]) || bytes[at] == '#')) {
        if (bytes[at] == '#') {
            while (at < bytes.size() && bytes[at] != '\n') ++at;
        } else {
            ++at;
        }
    }
    long long value = 0;
    const std::size_t start = at;
    // Nine digits are more than any side has, and no overflow.
    for (; at < bytes.size() && std::isdigit(bytes[at]) && at - start < 9; ++at) value = 10 * value + (bytes[at] - '0');
    if (at == start) throw Error(path + ": expected a PPM with width, height and 255 in its header");
    return value;
}

Image read_ppm(const std::string& path, const std::vector<std::uint8_t>& bytes) {
    std::size_t at = 2;
    const long long width = ppm_number(path, bytes, at);
    const long long height = ppm_number(path, bytes, at);
    const long long most = ppm_number(path, bytes, at);
    if (most != 255) throw Error(path + ": expected a PPM of 8 bits (255), got " + std::to_string(most));
    check_pixels(path, width, height);
    ++at;  // one white space
    Image image(static_cast<int>(width), static_cast<int>(height));
    if (at > bytes.size() || bytes.size() - at < image.pixels.size()) {
        throw Error(path + ": is truncated: expected " + std::to_string(image.pixels.size()) + " bytes of pixels");
    }
    std::memcpy(image.pixels.data(), bytes.data() + at, image.pixels.size());
    return image;
}

// ---- JPEG -----------------------------------------------------------------------------------------------------------

#ifdef GLUONFACE_JPEG

// Tag 0x0112 of the first directory of an EXIF block; 1, upright, where there is none or the block is damaged.
int exif_orientation(const std::uint8_t* data, std::size_t size) {
    if (size < 14 || std::memcmp(data, "Exif\0\0", 6) != 0) return 1;
    const std::uint8_t* tiff = data + 6;
    size -= 6;
    const bool little = tiff[0] == 'I' && tiff[1] == 'I';
    if (!little && !(tiff[0] == 'M' && tiff[1] == 'M')) return 1;
    const auto number = [&](std::size_t at, int bytes) {
        std::uint32_t value = 0;
        for (int i = 0; i < bytes; ++i) {
            value |= static_cast<std::uint32_t>(tiff[at + static_cast<std::size_t>(i)])
                     << 8 * (little ? i : bytes - 1 - i);
        }
        return value;
    };
    const std::size_t start = number(4, 4);
    if (start > size - 2) return 1;
    const std::size_t count = number(start, 2);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t at = start + 2 + 12 * i;
        if (at + 12 > size) return 1;
        if (number(at, 2) == 0x0112) {
            const auto value = static_cast<int>(number(at + 8, 2));
            return number(at + 2, 2) == 3 && 1 <= value && value <= 8 ? value : 1;
        }
    }
    return 1;
}

// The image that EXIF's orientation asks for.
Image upright(Image image, int orientation) {
    if (orientation == 1) return image;
    const bool swaps = orientation >= 5;
    Image turned(swaps ? image.height : image.width, swaps ? image.width : image.height);
    const int right = image.width - 1;
    const int bottom = image.height - 1;
    for (int y = 0; y < turned.height; ++y) {
        for (int x = 0; x < turned.width; ++x) {
            int from_x = swaps ? y : x;
            int from_y = swaps ? x : y;
            if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8) from_x = right - from_x;
            if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7) from_y = bottom - from_y;
            std::memcpy(turned.at(x, y), image.at(from_x, from_y), 3);
        }
    }
    return turned;
}

struct JpegErrors {
    jpeg_error_mgr base;
    std::jmp_buf back;
    char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void on_jpeg_error(j_common_ptr info) {
    auto* errors = reinterpret_cast<JpegErrors*>(info->err);
    info->err->format_message(info, errors->message);
    std::longjmp(errors->back, 1);
}

// Half a photo comes with a warning only.
void on_jpeg_message(j_common_ptr info, int level) {
    if (level < 0) on_jpeg_error(info);
}

// Everything that libjpeg may jump out of. No object with a destructor lives here: the jump would skip it.
bool decode_jpeg(const std::vector<std::uint8_t>& bytes, jpeg_decompress_struct& info, JpegErrors& errors, Image& image,
                 int& orientation, bool& too_large) {
    if (setjmp(errors.back) != 0) return false;
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, const_cast<unsigned char*>(bytes.data()), static_cast<unsigned long>(bytes.size()));
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info, TRUE);
    for (auto* marker = info.marker_list; marker != nullptr; marker = marker->next) {
        if (marker->marker == JPEG_APP0 + 1 && orientation == 1) {
            orientation = exif_orientation(marker->data, marker->data_length);
        }
    }
    if (static_cast<long long>(info.image_width) * info.image_height > kMaxPixels) {
        too_large = true;
        return true;
    }
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    image = Image(static_cast<int>(info.output_width), static_cast<int>(info.output_height));
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = image.at(0, static_cast<int>(info.output_scanline));
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
    return true;
}

Image read_jpeg(const std::string& path, const std::vector<std::uint8_t>& bytes) {
    jpeg_decompress_struct info{};
    JpegErrors errors{};
    info.err = jpeg_std_error(&errors.base);
    errors.base.error_exit = on_jpeg_error;
    errors.base.emit_message = on_jpeg_message;
    Image image;
    int orientation = 1;
    bool too_large = false;
    const bool decoded = decode_jpeg(bytes, info, errors, image, orientation, too_large);
    const long long width = info.image_width;
    const long long height = info.image_height;
    jpeg_destroy_decompress(&info);
    if (!decoded) throw Error(path + ": is damaged or truncated: " + errors.message);
    if (too_large) check_pixels(path, width, height);
    return upright(std::move(image), orientation);
}

#endif

// ---- resizing -------------------------------------------------------------------------------------------------------

// One source pixel's share in one result pixel, along one axis.
struct Share {
    int to;
    int from;
    float weight;
};

// What OpenCV's area interpolation does with the borders of cells, its thresholds included.
std::vector<Share> area_shares(int source, int result) {
    const double scale = static_cast<double>(source) / result;
    std::vector<Share> shares;
    for (int to = 0; to < result; ++to) {
        const double begin = to * scale;
        const double end = begin + scale;
        const double width = std::min(scale, source - begin);
        const int last = std::min(static_cast<int>(std::floor(end)), source - 1);
        const int first = std::min(static_cast<int>(std::ceil(begin)), last);
        if (first - begin > 1e-3) shares.push_back({to, first - 1, static_cast<float>((first - begin) / width)});
        for (int from = first; from < last; ++from) shares.push_back({to, from, static_cast<float>(1.0 / width)});
        if (end - last > 1e-3) {
            shares.push_back({to, last, static_cast<float>(std::min(std::min(end - last, 1.0), width) / width)});
        }
    }
    return shares;
}

Image shrink_by_areas(const Image& image, int width, int height) {
    const std::vector<Share> columns = area_shares(image.width, width);
    const std::vector<Share> rows = area_shares(image.height, height);
    Image result(width, height);
    std::vector<float> row(static_cast<std::size_t>(width) * 3);
    std::vector<float> sum(row.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
        std::fill(row.begin(), row.end(), 0.0F);
        for (const Share& share : columns) {
            const std::uint8_t* from = image.at(share.from, rows[i].from);
            float* to = row.data() + 3 * static_cast<std::size_t>(share.to);
            for (int c = 0; c < 3; ++c) to[c] += static_cast<float>(from[c]) * share.weight;
        }
        const bool begins = i == 0 || rows[i].to != rows[i - 1].to;
        for (std::size_t x = 0; x < row.size(); ++x) {
            sum[x] = begins ? rows[i].weight * row[x] : sum[x] + rows[i].weight * row[x];
        }
        if (i + 1 == rows.size() || rows[i + 1].to != rows[i].to) {
            std::transform(sum.begin(), sum.end(), result.at(0, rows[i].to),
                           [](float value) { return to_byte(value); });
        }
    }
    return result;
}

Image shrink_by_whole_factors(const Image& image, int factor_x, int factor_y) {
    Image result(image.width / factor_x, image.height / factor_y);
    const float scale = 1.0F / static_cast<float>(factor_x * factor_y);
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) {
            for (int c = 0; c < 3; ++c) {
                int sum = 0;
                for (int j = 0; j < factor_y; ++j) {
                    for (int i = 0; i < factor_x; ++i) sum += image.at(x * factor_x + i, y * factor_y + j)[c];
                }
                // OpenCV has a way of its own for two by two, where halves go up.
                const bool quarter = factor_x == 2 && factor_y == 2;
                result.at(x, y)[c] =
                    quarter ? static_cast<std::uint8_t>((sum + 2) >> 2) : to_byte(static_cast<float>(sum) * scale);
            }
        }
    }
    return result;
}

// The two source pixels that a result pixel lies between, and their weights in 1/2048.
struct Between {
    int first;
    int second;
    int weight_first;
    int weight_second;
};

std::vector<Between> linear_weights(int source, int result, bool clamps_weights) {
    const double scale = static_cast<double>(source) / result;
    std::vector<Between> weights;
    for (int to = 0; to < result; ++to) {
        auto place = static_cast<float>((to + 0.5) * scale - 0.5);
        int first = static_cast<int>(std::floor(place));
        place -= static_cast<float>(first);
        // Along a row OpenCV clamps the place, from row to row it clamps the rows.
        if (clamps_weights && first < 0) {
            first = 0;
            place = 0;
        }
        if (clamps_weights && first >= source - 1) {
            first = source - 1;
            place = 0;
        }
        weights.push_back({std::clamp(first, 0, source - 1), std::clamp(first + 1, 0, source - 1),
                           static_cast<int>(std::nearbyintf((1.0F - place) * 2048.0F)),
                           static_cast<int>(std::nearbyintf(place * 2048.0F))});
    }
    return weights;
}

Image enlarge(const Image& image, int width, int height) {
    const std::vector<Between> columns = linear_weights(image.width, width, true);
    const std::vector<Between> rows = linear_weights(image.height, height, false);
    const auto along = [&](int y) {
        std::vector<int> row;
        row.reserve(static_cast<std::size_t>(width) * 3);
        for (const Between& between : columns) {
            for (int c = 0; c < 3; ++c) {
                row.push_back(image.at(between.first, y)[c] * between.weight_first +
                              image.at(between.second, y)[c] * between.weight_second);
            }
        }
        return row;
    };
    Image result(width, height);
    int upper = -1;
    int lower = -1;
    std::vector<int> above;
    std::vector<int> below;
    for (int y = 0; y < height; ++y) {
        const Between& between = rows[static_cast<std::size_t>(y)];
        if (between.first != upper) {
            above = between.first == lower ? below : along(between.first);
            upper = between.first;
        }
        if (between.second != lower) {
            below = between.second == upper ? above : along(between.second);
            lower = between.second;
        }
        for (std::size_t x = 0; x < above.size(); ++x) {
            const int value = ((between.weight_first * (above[x] >> 4)) >> 16) +
                              ((between.weight_second * (below[x] >> 4)) >> 16) + 2;
            result.at(0, y)[x] = static_cast<std::uint8_t>(value >> 2);
        }
    }
    return result;
}

}  // namespace

// ---- geometry -------------------------------------------------------------------------------------------------------

Affine Affine::inverse() const {
    const double determinant = a * e - b * d;
    if (!std::isfinite(1 / determinant)) throw Error("expected a transform that can be inverted");
    const double ia = e / determinant;
    const double ib = -b / determinant;
    const double id = -d / determinant;
    const double ie = a / determinant;
    return {ia, ib, -(ia * c + ib * f), id, ie, -(id * c + ie * f)};
}

Affine similarity_transform(const std::vector<Point>& from, const std::vector<Point>& to) {
    Point from_mean;
    Point to_mean;
    const auto count = static_cast<double>(from.size());
    double farthest = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
        from_mean.x += from[i].x / count;
        from_mean.y += from[i].y / count;
        to_mean.x += to[i].x / count;
        to_mean.y += to[i].y / count;
        farthest = std::max({farthest, std::abs(from[i].x), std::abs(from[i].y)});
    }
    double spread = 0;
    double along = 0;
    double across = 0;
    for (std::size_t i = 0; i < from.size(); ++i) {
        const double sx = from[i].x - from_mean.x;
        const double sy = from[i].y - from_mean.y;
        const double dx = to[i].x - to_mean.x;
        const double dy = to[i].y - to_mean.y;
        spread += sx * sx + sy * sy;
        along += sx * dx + sy * dy;
        across += sx * dy - sy * dx;
    }
    const double least = 1e-9 * (1 + farthest);
    if (!(spread > least * least)) throw Error("expected points that are apart, got all of them in one place");
    const double p = along / spread;
    const double q = across / spread;
    return {p, -q, to_mean.x - (p * from_mean.x - q * from_mean.y),
            q, p,  to_mean.y - (q * from_mean.x + p * from_mean.y)};
}

Letterbox::Letterbox(int width, int height, int canvas_width, int canvas_height) {
    const double scale =
        std::min(static_cast<double>(canvas_height) / height, static_cast<double>(canvas_width) / width);
    resized_width = std::min(std::max(1, static_cast<int>(std::nearbyint(width * scale))), canvas_width);
    resized_height = std::min(std::max(1, static_cast<int>(std::nearbyint(height * scale))), canvas_height);
    // A whole number of pixels, so the two scales differ a little.
    scale_x = static_cast<double>(resized_width) / width;
    scale_y = static_cast<double>(resized_height) / height;
}

// ---- pixels ---------------------------------------------------------------------------------------------------------

Image read_image(const std::string& path) {
    const std::vector<std::uint8_t> bytes = read_bytes(path);
    if (bytes.size() > 2 && bytes[0] == 'P' && bytes[1] == '6') return read_ppm(path, bytes);
    if (bytes.size() > 2 && bytes[0] == 0xFF && bytes[1] == 0xD8) {
#ifdef GLUONFACE_JPEG
        return read_jpeg(path, bytes);
#else
        throw Error(path + ": is a JPEG, and this program was compiled without libjpeg; give a PPM (P6)");
#endif
    }
    throw Error(path + ": expected a PPM (P6) or a JPEG, got something else");
}

Image resize(const Image& image, int width, int height) {
    if (width == image.width && height == image.height) return image;
    if (width > image.width || height > image.height) return enlarge(image, width, height);
    if (image.width % width == 0 && image.height % height == 0) {
        return shrink_by_whole_factors(image, image.width / width, image.height / height);
    }
    return shrink_by_areas(image, width, height);
}

Image apply_letterbox(const Image& image, const Letterbox& box, int canvas_width, int canvas_height) {
    const Image resized = resize(image, box.resized_width, box.resized_height);
    Image canvas(canvas_width, canvas_height);
    for (int y = 0; y < resized.height; ++y) {
        std::memcpy(canvas.at(0, y), resized.at(0, y), static_cast<std::size_t>(resized.width) * 3);
    }
    return canvas;
}

Image warp(const Image& image, const Affine& matrix, int width, int height) {
    Image result(width, height);
    const Affine back = matrix.inverse();
    double left = DBL_MAX;
    double top = DBL_MAX;
    double right = -DBL_MAX;
    double bottom = -DBL_MAX;
    for (const Point corner :
         {Point{0, 0}, Point{1.0 * width, 0}, Point{0, 1.0 * height}, Point{1.0 * width, 1.0 * height}}) {
        const Point seen = back(corner);
        left = std::min(left, seen.x);
        right = std::max(right, seen.x);
        top = std::min(top, seen.y);
        bottom = std::max(bottom, seen.y);
    }
    // Clamped as floating point: far away is beyond the range of int.
    const int x1 = static_cast<int>(std::clamp(std::floor(left) - 2, 0.0, 1.0 * image.width));
    const int y1 = static_cast<int>(std::clamp(std::floor(top) - 2, 0.0, 1.0 * image.height));
    const int x2 = static_cast<int>(std::clamp(std::ceil(right) + 2, 0.0, 1.0 * image.width));
    const int y2 = static_cast<int>(std::clamp(std::ceil(bottom) + 2, 0.0, 1.0 * image.height));
    if (!(x1 < x2 && y1 < y2)) return result;
    // Whole factors per axis, by which the part that is seen is averaged first.
    const auto factor = [](double p, double q, int side) {
        const double shrinks = std::floor(1 / std::max(std::hypot(p, q), 1e-9) + 1e-6);
        return std::clamp(static_cast<int>(std::min(shrinks, 1.0 * side)), 1, side);
    };
    const int factor_x = factor(matrix.a, matrix.d, x2 - x1);
    const int factor_y = factor(matrix.b, matrix.e, y2 - y1);
    // Rounded up to whole cells; the last row and column are repeated.
    const int part_width = (x2 - x1 + factor_x - 1) / factor_x * factor_x;
    const int part_height = (y2 - y1 + factor_y - 1) / factor_y * factor_y;
    Image part(part_width, part_height);
    for (int y = 0; y < part_height; ++y) {
        for (int x = 0; x < part_width; ++x) {
            std::memcpy(part.at(x, y), image.at(std::min(x1 + x, x2 - 1), std::min(y1 + y, y2 - 1)), 3);
        }
    }
    if (factor_x > 1 || factor_y > 1) part = shrink_by_whole_factors(part, factor_x, factor_y);

    // From result to part, both counted from pixel centres, in OpenCV's order of operations and its fixed point: places
    // in 1/1024, rounded to 1/32.
    const double a = matrix.a * factor_x;
    const double b = matrix.b * factor_y;
    const double d = matrix.d * factor_x;
    const double e = matrix.e * factor_y;
    const double c = matrix.c + (matrix.a * x1 + matrix.b * y1) + (a + b) * 0.5 - 0.5;
    const double f = matrix.f + (matrix.d * x1 + matrix.e * y1) + (d + e) * 0.5 - 0.5;
    const double scale = 1 / (a * e - b * d);
    const double ia = e * scale;
    const double ib = b * -scale;
    const double id = d * -scale;
    const double ie = a * scale;
    const double ic = -ia * c - ib * f;
    const double jf = -id * c - ie * f;
    const auto fixed = [](double value) {
        return static_cast<long long>(std::nearbyint(std::clamp(value * 1024, -2147483648.0, 2147483647.0)));
    };
    const auto value_at = [&part](long long x, long long y, int channel) -> long long {
        const bool inside = 0 <= x && x < part.width && 0 <= y && y < part.height;
        return inside ? part.at(static_cast<int>(x), static_cast<int>(y))[channel] : 0;
    };
    for (int y = 0; y < height; ++y) {
        const long long row_x = fixed(ib * y + ic) + 16;
        const long long row_y = fixed(ie * y + jf) + 16;
        for (int x = 0; x < width; ++x) {
            const long long px = (row_x + fixed(ia * x)) >> 5;
            const long long py = (row_y + fixed(id * x)) >> 5;
            const long long i = px >> 5;
            const long long j = py >> 5;
            const long long u = px & 31;
            const long long v = py & 31;
            for (int k = 0; k < 3; ++k) {
                const long long upper = value_at(i, j, k) * (32 - u) + value_at(i + 1, j, k) * u;
                const long long lower = value_at(i, j + 1, k) * (32 - u) + value_at(i + 1, j + 1, k) * u;
                result.at(x, y)[k] = static_cast<std::uint8_t>((upper * (32 - v) + lower * v + 512) >> 10);
            }
        }
    }
    return result;
}

}  // namespace gluonface
