// The preprocessing of sound that every measurement of this model used, in Swift: what preprocess.py computes in NumPy.
// All is computed in Double, in the order that is written here, with tables that Python computed, and rounded to Float
// at the end. Nothing is resampled.
import Foundation

enum SampleType { case int16, float32, float64 }
enum Logarithm { case none, ln, log10, db }

struct SoundError: Error {
    let message: String
}

/// How sounds become the model's input: the waveform, a spectrogram or a mel spectrogram, (value - mean) / std.
/// To compute one frame at a time as a sound arrives, give `preprocess` the nFft samples of that frame, and a copy of
/// this with samples 0, center false and frames 0.
struct AudioValues {
    let input: String
    let samplingRate: Int // Hz, of every sound
    var samples: Int // a sound is cut at its end, or padded with zeros, to so many; 0: it is not
    let nFft: Int // samples of a frame; 0: the input is the waveform
    let hop: Int
    var center: Bool // frame i is around sample i * hop, the ends reflected; else it begins there
    let power: Double // of the magnitudes
    let window: [Double] // of nFft values each
    let cosines: [Double]
    let sines: [Double] // with the sign of exp(-i)
    let nMels: Int // 0: the rows are bins
    let melFirst: [Int]
    let melCount: [Int]
    let melWeights: [Double] // of one band after the other
    let logarithm: Logarithm
    let leastEnergy: Double // before the logarithm
    let belowPeak: Double? // values that far below the largest are raised to that
    var frames: Int // cut at the end, or padded with silence, to so many; 0: as many as there are
    let mean: Double
    let std: Double
    let timeFirst: Bool // the model's input is [frames][rows], else [rows][frames]
}

/// The model's input of a mono sound of whole numbers, as a WAV file of 16 bits has them.
func preprocess(_ samples: [Int16], _ audio: AudioValues) throws -> [Float] {
    try preprocess(samples.map { Double($0) / 32768.0 }, audio)
}

/// The model's input of a mono sound from -1 to 1.
func preprocess(_ samples: [Float], _ audio: AudioValues) throws -> [Float] {
    try preprocess(samples.map { Double($0) }, audio)
}

/// The model's input of a mono sound from -1 to 1.
func preprocess(_ samples: [Double], _ audio: AudioValues) throws -> [Float] {
    var signal = samples
    if audio.samples != 0 {
        signal = Array(samples.prefix(audio.samples))
        signal += [Double](repeating: 0, count: audio.samples - signal.count)
    }
    if audio.nFft == 0 {
        return signal.map { Float(($0 - audio.mean) / audio.std) }
    }
    let rows = audio.nMels == 0 ? audio.nFft / 2 + 1 : audio.nMels
    let found = try spectrogram(signal, rows, audio)
    let frames = found.count / rows
    var least = -Double.infinity
    if let belowPeak = audio.belowPeak, audio.logarithm != .none, let peak = found.max() {
        least = peak - belowPeak
    }
    var values = [Float](repeating: 0, count: found.count)
    for frame in 0..<frames {
        for row in 0..<rows {
            let value = max(found[frame * rows + row], least)
            let place = audio.timeFirst ? frame * rows + row : row * frames + frame
            values[place] = Float((value - audio.mean) / audio.std)
        }
    }
    return values
}

/// Numbers that a text lists: as a literal so many of them would take the compiler long.
func doubles(_ text: String) -> [Double] {
    text.split(whereSeparator: { $0 == " " || $0 == "\n" }).map { number -> Double in
        guard let value = Double(number) else {
            preconditionFailure("\(number) is no number")
        }
        return value
    }
}

/// Values before mean and std, [frames][rows].
private func spectrogram(_ signal: [Double], _ rows: Int, _ audio: AudioValues) throws -> [Double] {
    let half = audio.center ? audio.nFft / 2 : 0
    let padded = signal.count + 2 * half
    if audio.center && signal.count <= half {
        throw SoundError(message: "\(signal.count) samples are too few to reflect \(half)")
    }
    if padded < audio.nFft {
        throw SoundError(message: "\(signal.count) samples are less than one frame of \(audio.nFft)")
    }
    let own = 1 + (padded - audio.nFft) / audio.hop
    let frames = audio.frames == 0 ? own : audio.frames
    var values: [Double] = []
    values.reserveCapacity(frames * rows)
    for frame in 0..<frames {
        var energies = [Double](repeating: 0, count: audio.nFft / 2 + 1) // silence
        if frame < own {
            let windowed = cut(signal, frame * audio.hop - half, audio.window)
            energies = energiesOf(transform(windowed, audio), audio)
        }
        if audio.nMels != 0 {
            energies = bandsOf(energies, audio)
        }
        for row in 0..<rows {
            values.append(logarithmOf(energies[row], audio))
        }
    }
    return values
}

/// The windowed samples of one frame as complex numbers, the sound reflected at its ends.
private func cut(_ signal: [Double], _ begin: Int, _ window: [Double]) -> [Double] {
    var frame = [Double](repeating: 0, count: 2 * window.count)
    for i in window.indices {
        let at = abs(begin + i)
        let reflected = min(at, 2 * (signal.count - 1) - at)
        frame[2 * i] = signal[reflected] * window[i]
    }
    return frame
}

/// The discrete Fourier transform of nFft real values, by Stockham's steps: one for each prime factor, from the
/// smallest on. Spectra of real values are symmetric, so half of each is computed.
private func transform(_ windowed: [Double], _ audio: AudioValues) -> [Double] {
    let n = audio.nFft
    var from = windowed
    var to = [Double](repeating: 0, count: 2 * n)
    var done = 1
    var rest = n
    var factor = 2
    while rest > 1 {
        while rest % factor != 0 {
            factor += 1
        }
        rest /= factor
        let size = done * factor
        for i in 0..<rest {
            for k in 0...(size / 2) {
                var real = 0.0
                var imaginary = 0.0
                var turn = 0
                for part in 0..<factor {
                    let at = 2 * ((i + part * rest) * done + k % done)
                    let cosine = audio.cosines[turn]
                    let sine = audio.sines[turn]
                    real += cosine * from[at] - sine * from[at + 1]
                    imaginary += cosine * from[at + 1] + sine * from[at]
                    turn += k * rest
                    if turn >= n {
                        turn -= n
                    }
                }
                let found = 2 * i * size
                to[found + 2 * k] = real
                to[found + 2 * k + 1] = imaginary
                if k != 0 && 2 * k < size {
                    to[found + 2 * (size - k)] = real
                    to[found + 2 * (size - k) + 1] = -imaginary
                }
            }
        }
        swap(&from, &to)
        done = size
    }
    return from
}

/// Magnitudes to the power.
private func energiesOf(_ spectrum: [Double], _ audio: AudioValues) -> [Double] {
    (0..<(audio.nFft / 2 + 1)).map { bin -> Double in
        let real = spectrum[2 * bin]
        let imaginary = spectrum[2 * bin + 1]
        let energy = real * real + imaginary * imaginary
        if audio.power == 2.0 {
            return energy
        }
        return audio.power == 1.0 ? energy.squareRoot() : pow(energy, audio.power / 2.0)
    }
}

private func bandsOf(_ energies: [Double], _ audio: AudioValues) -> [Double] {
    var bands: [Double] = []
    bands.reserveCapacity(audio.nMels)
    var at = 0
    for band in 0..<audio.nMels {
        var sum = 0.0
        for i in 0..<audio.melCount[band] {
            sum += audio.melWeights[at] * energies[audio.melFirst[band] + i]
            at += 1
        }
        bands.append(sum)
    }
    return bands
}

private func logarithmOf(_ energy: Double, _ audio: AudioValues) -> Double {
    let raised = max(energy, audio.leastEnergy)
    switch audio.logarithm {
    case .none: return energy
    case .ln: return log(raised)
    case .log10: return log10(raised)
    case .db: return 10.0 * log10(raised)
    }
}
