// The preprocessing of sound that every measurement of this model used, in Kotlin: what preprocess.py computes in
// NumPy. All is computed in double, in the order that is written here, with tables that Python computed, and rounded to
// float at the end. Nothing is resampled.
package released

import kotlin.math.abs
import kotlin.math.ln
import kotlin.math.log10
import kotlin.math.max
import kotlin.math.min
import kotlin.math.pow
import kotlin.math.sqrt

enum class SampleType { INT16, FLOAT32, FLOAT64 }
enum class Logarithm { NONE, LN, LOG10, DB }

/**
 * How sounds become the model's input: the waveform, a spectrogram or a mel spectrogram, (value - mean) / std.
 * To compute one frame at a time as a sound arrives, give `preprocessSound` the nFft samples of that frame, and a
 * copy of this with samples 0, center false and frames 0.
 */
class AudioValues(
    val input: String,
    val samplingRate: Int, // Hz, of every sound
    val samples: Int, // a sound is cut at its end, or padded with zeros, to so many; 0: it is not
    val nFft: Int, // samples of a frame; 0: the input is the waveform
    val hop: Int,
    val center: Boolean, // frame i is around sample i * hop, the ends reflected; else it begins there
    val power: Double, // of the magnitudes
    val window: DoubleArray, // of nFft values each
    val cosines: DoubleArray,
    val sines: DoubleArray, // with the sign of exp(-i)
    val nMels: Int, // 0: the rows are bins
    val melFirst: IntArray,
    val melCount: IntArray,
    val melWeights: DoubleArray, // of one band after the other
    val logarithm: Logarithm,
    val leastEnergy: Double, // before the logarithm
    val belowPeak: Double?, // values that far below the largest are raised to that
    val frames: Int, // cut at the end, or padded with silence, to so many; 0: as many as there are
    val mean: Double,
    val std: Double,
    val timeFirst: Boolean, // the model's input is [frames][rows], else [rows][frames]
)

/** The model's input of a mono sound of whole numbers, as a WAV file of 16 bits has them. */
fun preprocessSound(samples: ShortArray, audio: AudioValues): FloatArray =
    preprocessSound(DoubleArray(samples.size) { samples[it].toDouble() / 32768.0 }, audio)

/** The model's input of a mono sound from -1 to 1. */
fun preprocessSound(samples: FloatArray, audio: AudioValues): FloatArray =
    preprocessSound(DoubleArray(samples.size) { samples[it].toDouble() }, audio)

/** The model's input of a mono sound from -1 to 1. */
fun preprocessSound(samples: DoubleArray, audio: AudioValues): FloatArray {
    val signal = if (audio.samples == 0) samples else samples.copyOf(audio.samples)
    if (audio.nFft == 0) return FloatArray(signal.size) { ((signal[it] - audio.mean) / audio.std).toFloat() }
    val rows = if (audio.nMels == 0) audio.nFft / 2 + 1 else audio.nMels
    val spectrogram = spectrogram(signal, rows, audio)
    val frames = spectrogram.size / rows
    var least = Double.NEGATIVE_INFINITY
    if (audio.belowPeak != null && audio.logarithm != Logarithm.NONE) least = spectrogram.max() - audio.belowPeak
    val values = FloatArray(spectrogram.size)
    for (frame in 0 until frames) {
        for (row in 0 until rows) {
            val value = max(spectrogram[frame * rows + row], least)
            val to = if (audio.timeFirst) frame * rows + row else row * frames + frame
            values[to] = ((value - audio.mean) / audio.std).toFloat()
        }
    }
    return values
}

/** Numbers that a text lists. As code of their own so many of them would be too large for a class. */
internal fun doubles(vararg lines: String): DoubleArray =
    lines.flatMap { it.split(' ') }.map { it.toDouble() }.toDoubleArray()

/** Values before mean and std, [frames][rows]. */
private fun spectrogram(signal: DoubleArray, rows: Int, audio: AudioValues): DoubleArray {
    val half = if (audio.center) audio.nFft / 2 else 0
    val padded = signal.size + 2 * half
    require(!audio.center || signal.size > half) { "${signal.size} samples are too few to reflect $half" }
    require(padded >= audio.nFft) { "${signal.size} samples are less than one frame of ${audio.nFft}" }
    val own = 1 + (padded - audio.nFft) / audio.hop
    val frames = if (audio.frames == 0) own else audio.frames
    val values = DoubleArray(frames * rows)
    val buffers = Pair(DoubleArray(2 * audio.nFft), DoubleArray(2 * audio.nFft))
    for (frame in 0 until frames) {
        var energies = DoubleArray(audio.nFft / 2 + 1) // silence
        if (frame < own) {
            cut(signal, frame * audio.hop - half, buffers.first, audio.window)
            energies = energiesOf(transform(buffers.first, buffers.second, audio), audio)
        }
        if (audio.nMels != 0) energies = bandsOf(energies, audio)
        for (row in 0 until rows) values[frame * rows + row] = logarithmOf(energies[row], audio)
    }
    return values
}

/** The windowed samples of one frame as complex numbers, the sound reflected at its ends. */
private fun cut(signal: DoubleArray, begin: Int, frame: DoubleArray, window: DoubleArray) {
    for (i in window.indices) {
        val at = abs(begin + i)
        val reflected = min(at, 2 * (signal.size - 1) - at)
        frame[2 * i] = signal[reflected] * window[i]
        frame[2 * i + 1] = 0.0
    }
}

/**
 * The discrete Fourier transform of nFft real values, by Stockham's steps: one for each prime factor, from the smallest
 * on. Spectra of real values are symmetric, so half of each is computed. Both buffers are overwritten; the one with the
 * result is returned.
 */
private fun transform(first: DoubleArray, second: DoubleArray, audio: AudioValues): DoubleArray {
    val n = audio.nFft
    var from = first
    var to = second
    var done = 1
    var rest = n
    var factor = 2
    while (rest > 1) {
        while (rest % factor != 0) factor++
        rest /= factor
        val size = done * factor
        for (i in 0 until rest) {
            for (k in 0..size / 2) {
                var real = 0.0
                var imaginary = 0.0
                var turn = 0
                for (part in 0 until factor) {
                    val at = 2 * ((i + part * rest) * done + k % done)
                    real += audio.cosines[turn] * from[at] - audio.sines[turn] * from[at + 1]
                    imaginary += audio.cosines[turn] * from[at + 1] + audio.sines[turn] * from[at]
                    turn += k * rest
                    if (turn >= n) turn -= n
                }
                val found = 2 * i * size
                to[found + 2 * k] = real
                to[found + 2 * k + 1] = imaginary
                if (k != 0 && 2 * k < size) {
                    to[found + 2 * (size - k)] = real
                    to[found + 2 * (size - k) + 1] = -imaginary
                }
            }
        }
        val result = to
        to = from
        from = result
        done = size
    }
    return from
}

/** Magnitudes to the power. */
private fun energiesOf(spectrum: DoubleArray, audio: AudioValues) = DoubleArray(audio.nFft / 2 + 1) {
    val energy = spectrum[2 * it] * spectrum[2 * it] + spectrum[2 * it + 1] * spectrum[2 * it + 1]
    when (audio.power) {
        2.0 -> energy
        1.0 -> sqrt(energy)
        else -> energy.pow(audio.power / 2.0)
    }
}

private fun bandsOf(energies: DoubleArray, audio: AudioValues): DoubleArray {
    var at = 0
    return DoubleArray(audio.nMels) { band ->
        var sum = 0.0
        for (i in 0 until audio.melCount[band]) sum += audio.melWeights[at++] * energies[audio.melFirst[band] + i]
        sum
    }
}

private fun logarithmOf(energy: Double, audio: AudioValues): Double {
    val raised = max(energy, audio.leastEnergy)
    return when (audio.logarithm) {
        Logarithm.NONE -> energy
        Logarithm.LN -> ln(raised)
        Logarithm.LOG10 -> log10(raised)
        Logarithm.DB -> 10.0 * log10(raised)
    }
}
