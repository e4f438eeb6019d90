// The preprocessing that every measurement of this model used, in Swift: what preprocess.py computes in NumPy.

enum TensorType {
    case float32, int32
}

/// One input or output of the model, as the package has it. The batch is 1.
struct TensorValues {
    let name: String
    let type: TensorType
    let shape: [Int]

    var count: Int { shape.reduce(1, *) }
}

/// A picture as it was decoded, upright by its EXIF orientation: [height][width][channels], red first.
/// Channels: 1 grey, 2 grey and alpha, 3 red, green and blue, 4 these and alpha; or as many as the model has.
struct Picture {
    let pixels: [UInt8]
    let height: Int
    let width: Int
    let channels: Int
}

enum Resize { case none, stretch, crop, letterbox }
enum Filter { case nearest, box, bilinear, bicubic }
enum Align { case center, start }
enum Order { case rgb, bgr }
enum OtherChannels { case convert, composite, refuse }

struct PictureError: Error {
    let message: String
}

/// How pictures become the model's input: resized, then (pixel * scale - mean) / std for each channel.
struct ImageValues {
    let input: String
    var height: Int // of a range of sizes: the largest
    var width: Int
    let channels: Int
    let isPicture: Bool // the package takes a picture of the model's size, and computes the rest itself
    let scale: Float
    let mean: [Float] // in the model's order of channels
    let std: [Float]
    let resize: Resize
    var resizeHeight: Int // of .crop; resizeWidth 0: this is of the shorter side. Of .letterbox: what sized(for:) found
    var resizeWidth: Int
    let filter: Filter
    let antialias: Bool
    let fill: [UInt8] // of .letterbox, red first
    let align: Align
    let order: Order
    let otherChannels: OtherChannels
    let background: [UInt8] // of .composite: red, green, blue
    var leastHeight: Int // 0: pictures have one size; else they keep their own from here on
    var leastWidth: Int
    let multiple: Int

    /// The same for a picture of that size: in a range of sizes with the height and width that it gets, which the other
    /// functions want. The result is for this picture and others of its size.
    func sized(for picture: Picture) -> ImageValues {
        if leastHeight == 0 || picture.height < 1 || picture.width < 1 {
            return self
        }
        var (rows, columns) = (picture.height, picture.width)
        if rows < leastHeight || columns < leastWidth {
            (rows, columns) = around(picture, self)
        }
        if rows > height || columns > width {
            (rows, columns) = inside(picture, self)
        }
        var found = self
        found.height = stepped(rows, leastHeight, height)
        found.width = stepped(columns, leastWidth, width)
        (found.leastHeight, found.leastWidth) = (0, 0)
        if resize == .letterbox {
            (found.resizeHeight, found.resizeWidth) = (rows, columns)
        }
        return found
    }

    private func stepped(_ side: Int, _ least: Int, _ largest: Int) -> Int {
        let steps = resize == .letterbox ? (side + multiple - 1) / multiple : nearestWhole(side, multiple)
        return min(max(steps * multiple, least), largest)
    }
}

/// The model's input [channels][height][width] of pixels [height][width][channels] of the model's size, red first.
func preprocess(_ pixels: [UInt8], _ image: ImageValues) -> [Float] {
    let plane = image.height * image.width
    precondition(pixels.count == plane * image.channels, "not a picture of this model's size")
    var values = [Float](repeating: 0, count: pixels.count)
    for i in 0..<plane {
        for channel in 0..<image.channels {
            let given = image.order == .bgr && channel < 3 ? 2 - channel : channel
            let scaled = Float(pixels[i * image.channels + given]) * image.scale
            let centred = scaled - image.mean[channel]
            values[channel * plane + i] = centred / image.std[channel]
        }
    }
    return values
}

// --- a picture of the model's size and channels: whole numbers alone ---------------------------------------------

private let weightBits = 22 // of a weight's fraction

/// The picture as the model's [height][width][channels], red first.
func fit(_ picture: Picture, _ image: ImageValues) throws -> [UInt8] {
    let own = try withChannels(picture, image)
    if image.resize == .none {
        guard own.height == image.height && own.width == image.width else {
            let size = "\(image.height) x \(image.width)"
            throw PictureError(message: "the model takes this picture as \(size) alone, not \(own.height) x \(own.width)")
        }
        return own.pixels
    }
    let (rows, columns) = place(own, image)
    let narrow = resizeRows(own, columns)
    var whole = [UInt8](repeating: 0, count: image.height * image.width * image.channels)
    for i in whole.indices {
        whole[i] = image.fill[i % image.channels]
    }
    resizeColumns(narrow, rows, columns, &whole, image)
    return whole
}

/// Of which pixels a resized one is made, and how much of each.
private struct Weights {
    var positions: [Int]
    var values: [Int]
}

/// One axis that is resized from `size` to `scaled` pixels; the model's picture begins at `offset` of these.
private struct Axis {
    let size: Int
    let offset: Int
    let begin: Int
    let end: Int
    let filter: Filter
    let antialias: Bool
    let step: Double
    let widened: Double
    let reach: Double

    init(size: Int, scaled: Int, offset: Int, length: Int, image: ImageValues) {
        self.size = size
        self.offset = offset
        begin = max(offset, 0)
        end = min(offset + length, scaled)
        filter = image.filter
        antialias = image.antialias
        step = Double(size) / Double(scaled)
        widened = image.antialias ? max(step, 1.0) : 1.0
        let reaches: [Filter: Double] = [.nearest: 0.5, .box: 0.5, .bilinear: 1.0, .bicubic: 2.0]
        reach = reaches[image.filter]! * widened
    }

    func weigh(_ at: Int) -> Weights {
        let unit = 1 << weightBits
        if filter == .nearest {
            return Weights(positions: [nearest(at)], values: [unit])
        }
        let center = (Double(at) + 0.5) * step
        let first = Int((center - reach + 0.5).rounded(.down))
        let taps = Int(reach.rounded(.up)) * 2 + 1
        let amounts = (0..<taps).map { amount(first + $0, center) }
        var total = 0.0
        for one in amounts {
            total += one
        }
        var weights = Weights(positions: [], values: [])
        for tap in 0..<taps {
            let share = amounts[tap] / total * Double(unit)
            weights.positions.append(min(max(first + tap, 0), size - 1))
            weights.values.append(Int(share + (share < 0 ? -0.5 : 0.5))) // towards zero
        }
        return weights
    }

    private func nearest(_ at: Int) -> Int {
        var position = 0.5 * step
        for _ in 0..<at {
            position += step
        }
        return min(Int(position), size - 1)
    }

    private func amount(_ position: Int, _ center: Double) -> Double {
        let behind = Int((center + reach + 0.5).rounded(.down))
        if position >= behind {
            return 0
        }
        if antialias && (position < 0 || position >= size) {
            return 0 // without antialias it is the pixel at the edge
        }
        return value((Double(position) - center + 0.5) * (1.0 / widened))
    }

    private func value(_ distance: Double) -> Double {
        if filter == .box {
            return distance > -0.5 && distance <= 0.5 ? 1 : 0
        }
        let x = abs(distance)
        if filter == .bilinear {
            return max(1.0 - x, 0.0)
        }
        let a = antialias ? -0.5 : -0.75
        if x < 1.0 {
            return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        }
        if x < 2.0 {
            return (((x - 5.0) * x + 8.0) * x - 4.0) * a
        }
        return 0
    }
}

/// How rows and columns of a picture are resized.
private func place(_ picture: Picture, _ image: ImageValues) -> (rows: Axis, columns: Axis) {
    var (height, width) = (image.height, image.width)
    var (top, left) = (0, 0)
    if image.resize == .crop {
        (height, width) = beforeCrop(picture, image)
        top = nearestWhole(height - image.height, 2)
        left = nearestWhole(width - image.width, 2)
    } else if image.resize == .letterbox {
        (height, width) = (image.resizeHeight, image.resizeWidth)
        if height == 0 {
            (height, width) = inside(picture, image)
        }
        if image.align == .center {
            top = -((image.height - height) / 2)
            left = -((image.width - width) / 2)
        }
    }
    let rows = Axis(size: picture.height, scaled: height, offset: top, length: image.height, image: image)
    let columns = Axis(size: picture.width, scaled: width, offset: left, length: image.width, image: image)
    return (rows, columns)
}

private func beforeCrop(_ picture: Picture, _ image: ImageValues) -> (Int, Int) {
    let shorter = image.resizeHeight
    if image.resizeWidth != 0 {
        return (shorter, image.resizeWidth)
    }
    if picture.width <= picture.height {
        return (shorter * picture.height / picture.width, shorter)
    }
    return (shorter, shorter * picture.width / picture.height)
}

private func inside(_ picture: Picture, _ image: ImageValues) -> (Int, Int) {
    if image.height * picture.width <= image.width * picture.height {
        return (image.height, max(nearestWhole(picture.width * image.height, picture.height), 1))
    }
    return (max(nearestWhole(picture.height * image.width, picture.width), 1), image.width)
}

/// The least size of the range, with the picture's proportions.
private func around(_ picture: Picture, _ image: ImageValues) -> (Int, Int) {
    if image.leastHeight * picture.width >= image.leastWidth * picture.height {
        return (image.leastHeight, nearestWhole(picture.width * image.leastHeight, picture.height))
    }
    return (nearestWhole(picture.height * image.leastWidth, picture.width), image.leastWidth)
}

/// The nearest whole number of a fraction; of a half, the even one.
private func nearestWhole(_ numerator: Int, _ denominator: Int) -> Int {
    let (whole, rest) = numerator.quotientAndRemainder(dividingBy: denominator)
    let isMore = 2 * rest > denominator || (2 * rest == denominator && whole % 2 == 1)
    return isMore ? whole + 1 : whole
}

/// Along the rows: [picture's height][columns that are seen][channels].
private func resizeRows(_ picture: Picture, _ columns: Axis) -> [UInt8] {
    let seen = columns.end - columns.begin
    let channels = picture.channels
    var narrow = [UInt8](repeating: 0, count: picture.height * seen * channels)
    for x in 0..<seen {
        let weights = columns.weigh(columns.begin + x)
        for y in 0..<picture.height {
            for channel in 0..<channels {
                var total = 1 << (weightBits - 1)
                for (position, weight) in zip(weights.positions, weights.values) {
                    total += Int(picture.pixels[(y * picture.width + position) * channels + channel]) * weight
                }
                narrow[(y * seen + x) * channels + channel] = byte(total)
            }
        }
    }
    return narrow
}

/// Along the columns of `narrow`, into the model's picture.
private func resizeColumns(
    _ narrow: [UInt8], _ rows: Axis, _ columns: Axis, _ whole: inout [UInt8], _ image: ImageValues
) {
    let line = (columns.end - columns.begin) * image.channels
    let left = columns.begin - columns.offset
    for y in rows.begin..<rows.end {
        let weights = rows.weigh(y)
        let to = ((y - rows.offset) * image.width + left) * image.channels
        for i in 0..<line {
            var total = 1 << (weightBits - 1)
            for (position, weight) in zip(weights.positions, weights.values) {
                total += Int(narrow[position * line + i]) * weight
            }
            whole[to + i] = byte(total)
        }
    }
}

private func byte(_ total: Int) -> UInt8 {
    UInt8(min(max(total >> weightBits, 0), 255))
}

/// The picture with the model's channels.
private func withChannels(_ picture: Picture, _ image: ImageValues) throws -> Picture {
    if picture.channels == image.channels {
        return picture
    }
    let areKnown = (1...4).contains(picture.channels) && [1, 3, 4].contains(image.channels)
    guard areKnown && image.otherChannels != .refuse else {
        throw PictureError(message: "the model takes \(image.channels) channels, not \(picture.channels)")
    }
    let count = picture.height * picture.width
    var pixels: [UInt8] = []
    pixels.reserveCapacity(count * image.channels)
    for i in 0..<count {
        for channel in 0..<image.channels {
            pixels.append(UInt8(channelOf(picture, i * picture.channels, channel, image)))
        }
    }
    return Picture(pixels: pixels, height: picture.height, width: picture.width, channels: image.channels)
}

/// One of the model's channels, red first, of the pixel that begins at `start`.
private func channelOf(_ picture: Picture, _ start: Int, _ channel: Int, _ image: ImageValues) -> Int {
    if channel == 3 {
        return picture.channels == 2 ? Int(picture.pixels[start + 1]) : 255
    }
    if image.channels != 1 {
        return colourOf(picture, start, channel, image)
    }
    let red = colourOf(picture, start, 0, image)
    let green = colourOf(picture, start, 1, image)
    let blue = colourOf(picture, start, 2, image)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
}

/// Red, green or blue of a pixel, over the background where that is asked for.
private func colourOf(_ picture: Picture, _ start: Int, _ channel: Int, _ image: ImageValues) -> Int {
    let given = picture.channels
    let value = Int(picture.pixels[given < 3 ? start : start + channel])
    let hasAlpha = given == 2 || given == 4
    if !hasAlpha || image.channels == 4 || image.otherChannels != .composite {
        return value
    }
    let alpha = Int(picture.pixels[start + given - 1])
    return (2 * (value * alpha + Int(image.background[channel]) * (255 - alpha)) + 255) / 510
}
