// The sample's files: raw little-endian values, in the order of the tensors' shapes.
package released

import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs

private fun little(bytes: ByteArray): ByteBuffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN)

/** FloatArray, LongArray, IntArray, BooleanArray or ByteArray, by the tensor's type. */
fun decode(bytes: ByteArray, type: TensorType): Any = when (type) {
    TensorType.FLOAT32 -> FloatArray(bytes.size / 4).also { little(bytes).asFloatBuffer().get(it) }
    TensorType.INT64 -> LongArray(bytes.size / 8).also { little(bytes).asLongBuffer().get(it) }
    TensorType.INT32 -> IntArray(bytes.size / 4).also { little(bytes).asIntBuffer().get(it) }
    TensorType.BOOL -> BooleanArray(bytes.size) { bytes[it].toInt() != 0 }
    TensorType.UINT8 -> bytes
}

/** The samples of a sound as doubles from -1 to 1. */
fun decodeSound(bytes: ByteArray, type: SampleType): DoubleArray {
    val values = little(bytes)
    return when (type) {
        SampleType.INT16 -> DoubleArray(bytes.size / 2) { values.getShort(2 * it).toDouble() / 32768.0 }
        SampleType.FLOAT32 -> DoubleArray(bytes.size / 4) { values.getFloat(4 * it).toDouble() }
        SampleType.FLOAT64 -> DoubleArray(bytes.size / 8) { values.getDouble(8 * it) }
    }
}

/** The sample's value of one input of the model: its picture or sound is preprocessed, as an app does it. */
fun sampleInput(bytes: ByteArray, tensor: TensorValues): Any {
    val audio = ModelValues.AUDIO
    if (audio != null && audio.input == tensor.name) {
        // of a model that takes one step at a time it is the first step
        return preprocessSound(decodeSound(bytes, ModelValues.SAMPLE_SOUND), audio).copyOf(tensor.count)
    }
    return samplePicture(bytes, tensor, ModelValues.IMAGE, ModelValues.SAMPLE_PICTURE)
}

private fun samplePicture(bytes: ByteArray, tensor: TensorValues, image: ImageValues?, sample: IntArray): Any {
    if (image == null || image.input != tensor.name) return decode(bytes, tensor.type)
    val (height, width, channels) = sample
    val isFitted = height == image.height && width == image.width && channels == image.channels
    return if (isFitted) preprocessImage(bytes, image) else preprocessPicture(Picture(bytes, height, width, channels), image)
}

/** How far an output is from what was recorded at release; NaN where one of the two holds a NaN. */
fun largestDifference(found: Any, expected: Any): Double {
    val pairs = doubles(found).zip(doubles(expected))
    return pairs.fold(0.0) { largest, (one, other) -> maxOf(largest, abs(one - other)) }
}

private fun doubles(values: Any): List<Double> = when (values) {
    is FloatArray -> values.map { it.toDouble() }
    is LongArray -> values.map { it.toDouble() }
    is IntArray -> values.map { it.toDouble() }
    is BooleanArray -> values.map { if (it) 1.0 else 0.0 }
    is ByteArray -> values.map { (it.toInt() and 0xFF).toDouble() }
    else -> throw IllegalArgumentException("no tensor of type ${values::class}")
}
