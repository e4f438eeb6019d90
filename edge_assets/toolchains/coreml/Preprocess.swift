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

/// How pictures become the model's input: (pixel * scale - mean) / std for each channel.
struct ImageValues {
    let input: String
    let height: Int
    let width: Int
    let channels: Int
    let isPicture: Bool // the package takes a picture, and computes this itself
    let scale: Float
    let mean: [Float]
    let std: [Float]
}

/// The model's input [channels][height][width] of pixels [height][width][channels].
func preprocess(_ pixels: [UInt8], _ image: ImageValues) -> [Float] {
    let plane = image.height * image.width
    precondition(pixels.count == plane * image.channels, "not a picture of this model's size")
    var values = [Float](repeating: 0, count: pixels.count)
    for i in 0..<plane {
        for channel in 0..<image.channels {
            let scaled = Float(pixels[i * image.channels + channel]) * image.scale
            let centred = scaled - image.mean[channel]
            values[channel * plane + i] = centred / image.std[channel]
        }
    }
    return values
}
