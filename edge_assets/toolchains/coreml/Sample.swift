// Runs the released CoreML package on a Mac: ./sample [THE RELEASED FOLDER]
//
// It reads the bundled sample and compares the outputs with those recorded at release. An app takes `fit`, then
// `pixelBuffer` or `preprocess` (of a sound that alone), and what `ReleasedModel` does; ModelValues.swift has the
// constants of this model.
import CoreML
import CoreVideo
import Foundation

struct SampleError: Error {
    let message: String
}

struct ReleasedModel {
    private let model: MLModel

    /// `package` is the .mlpackage; an app whose Xcode project holds it takes the generated class instead.
    init(package: URL) async throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = ModelValues.computeUnits
        let compiled = try await MLModel.compileModel(at: package)
        model = try MLModel(contentsOf: compiled, configuration: configuration)
    }

    /// Outputs by name for inputs by name.
    func run(_ inputs: [String: MLFeatureValue]) throws -> [String: [Float]] {
        let features = try MLDictionaryFeatureProvider(dictionary: inputs)
        let results = try model.prediction(from: features)
        var outputs: [String: [Float]] = [:]
        for tensor in ModelValues.outputs {
            guard let array = results.featureValue(for: tensor.name)?.multiArrayValue else {
                throw SampleError(message: "the package has no output \(tensor.name)")
            }
            outputs[tensor.name] = floats(array)
        }
        return outputs
    }
}

/// The array's values in the order of its shape, whatever its strides.
func floats(_ array: MLMultiArray) -> [Float] {
    let shape = array.shape.map { $0.intValue }
    var values: [Float] = []
    values.reserveCapacity(array.count)
    for position in 0..<array.count {
        var rest = position
        var index = [NSNumber](repeating: 0, count: shape.count)
        for axis in stride(from: shape.count - 1, through: 0, by: -1) {
            index[axis] = NSNumber(value: rest % shape[axis])
            rest /= shape[axis]
        }
        values.append(array[index].floatValue)
    }
    return values
}

/// A picture as the package takes it, of pixels [height][width][channels] of the model's size with 1 or 3 channels, red
/// first, whatever the model's order: CoreML brings them into it.
func pixelBuffer(_ pixels: [UInt8], _ image: ImageValues) throws -> CVPixelBuffer {
    let isGray = image.channels == 1
    let format = isGray ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA
    var created: CVPixelBuffer?
    let status = CVPixelBufferCreate(kCFAllocatorDefault, image.width, image.height, format, nil, &created)
    guard status == kCVReturnSuccess, let buffer = created else {
        throw SampleError(message: "no pixel buffer: CoreVideo's error \(status)")
    }
    CVPixelBufferLockBaseAddress(buffer, [])
    defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
    guard let base = CVPixelBufferGetBaseAddress(buffer) else {
        throw SampleError(message: "the pixel buffer has no memory")
    }
    let bytesPerRow = CVPixelBufferGetBytesPerRow(buffer)
    for y in 0..<image.height {
        let row = base.advanced(by: y * bytesPerRow).assumingMemoryBound(to: UInt8.self)
        for x in 0..<image.width {
            let from = (y * image.width + x) * image.channels
            if isGray {
                row[x] = pixels[from]
            } else {
                row[4 * x] = pixels[from + 2]
                row[4 * x + 1] = pixels[from + 1]
                row[4 * x + 2] = pixels[from]
                row[4 * x + 3] = 255
            }
        }
    }
    return buffer
}

/// An input of values in the order of the tensor's shape. Token ids are .int32.
func multiArray(_ values: [NSNumber], _ tensor: TensorValues) throws -> MLMultiArray {
    let shape = tensor.shape.map { NSNumber(value: $0) }
    let type: MLMultiArrayDataType = tensor.type == .float32 ? .float32 : .int32
    let array = try MLMultiArray(shape: shape, dataType: type) // contiguous
    for (i, value) in values.enumerated() {
        array[i] = value
    }
    return array
}

/// Little-endian values of a file, as every Apple device has them in memory.
func elements<Element>(_ data: Data, of type: Element.Type) -> [Element] {
    data.withUnsafeBytes { bytes in
        (0..<data.count / MemoryLayout<Element>.size).map { i in
            bytes.loadUnaligned(fromByteOffset: i * MemoryLayout<Element>.size, as: type)
        }
    }
}

func numbers(_ data: Data, _ type: TensorType) -> [NSNumber] {
    switch type {
    case .float32: return elements(data, of: Float.self).map { NSNumber(value: $0) }
    case .int32: return elements(data, of: Int32.self).map { NSNumber(value: $0) }
    }
}

/// The samples of a sound from -1 to 1.
func soundSamples(_ data: Data, _ type: SampleType) -> [Double] {
    switch type {
    case .int16: return elements(data, of: Int16.self).map { Double($0) / 32768.0 }
    case .float32: return elements(data, of: Float.self).map { Double($0) }
    case .float64: return elements(data, of: Double.self)
    }
}

/// The sample's value of one input of the model.
func sampleInput(_ tensor: TensorValues, in folder: URL) throws -> MLFeatureValue {
    let data = try Data(contentsOf: folder.appendingPathComponent("sample_\(tensor.name).bin"))
    if let audio = ModelValues.audio, audio.input == tensor.name {
        let values = try preprocess(soundSamples(data, ModelValues.sampleSound), audio)
        let step = values.prefix(tensor.count).map { NSNumber(value: $0) } // of a model with states the first
        return MLFeatureValue(multiArray: try multiArray(step, tensor))
    }
    guard let declared = ModelValues.image, declared.input == tensor.name else {
        return MLFeatureValue(multiArray: try multiArray(numbers(data, tensor.type), tensor))
    }
    let size = ModelValues.samplePicture
    let picture = Picture(pixels: [UInt8](data), height: size.height, width: size.width, channels: size.channels)
    let image = declared.sized(for: picture)
    let isFitted = size == (image.height, image.width, image.channels)
    let fitted = isFitted ? picture.pixels : try fit(picture, image)
    if image.isPicture {
        return MLFeatureValue(pixelBuffer: try pixelBuffer(fitted, image))
    }
    let values = preprocess(fitted, image).map { NSNumber(value: $0) }
    return MLFeatureValue(multiArray: try multiArray(values, tensor))
}

@main
struct Sample {
    static func main() async throws {
        let folder = URL(fileURLWithPath: CommandLine.arguments.count > 1 ? CommandLine.arguments[1] : "..")
        let app = folder.appendingPathComponent("app")
        let artifact = folder.appendingPathComponent(ModelValues.folder)
        let files = try FileManager.default.contentsOfDirectory(at: artifact, includingPropertiesForKeys: nil)
        guard let package = files.first(where: { $0.pathExtension == "mlpackage" }) else {
            throw SampleError(message: "there is no .mlpackage in \(artifact.path)")
        }
        let model = try await ReleasedModel(package: package)
        var inputs: [String: MLFeatureValue] = [:]
        for tensor in ModelValues.inputs {
            inputs[tensor.name] = try sampleInput(tensor, in: app)
        }
        for (name, found) in try model.run(inputs) {
            let data = try Data(contentsOf: app.appendingPathComponent("expected_\(name).bin"))
            guard let tensor = ModelValues.outputs.first(where: { $0.name == name }), tensor.count == found.count else {
                throw SampleError(message: "\(name) has another size than at release")
            }
            let expected = numbers(data, tensor.type).map { $0.floatValue }
            let difference = zip(found, expected).map { abs($0 - $1) }.max() ?? 0
            if found.count == ModelValues.classes.count, let best = found.indices.max(by: { found[$0] < found[$1] }) {
                print("class: \(ModelValues.classes[best])")
            }
            print("\(name): largest difference from the outputs recorded at release: \(difference)")
        }
    }
}
