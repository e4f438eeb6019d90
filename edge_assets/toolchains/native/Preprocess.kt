// The preprocessing that every measurement of this model used, in Kotlin: what preprocess.py computes in NumPy.
package released

enum class TensorType { FLOAT32, INT64, INT32, UINT8, BOOL }

/** One input or output of the model, as its file has it. The batch is 1. */
class TensorValues(val name: String, val type: TensorType, val shape: IntArray) {
    val count: Int get() = shape.fold(1) { product, axis -> product * axis }
}

/** How pictures become the model's input: (pixel * scale - mean) / std for each channel. */
class ImageValues(
    val input: String,
    val height: Int,
    val width: Int,
    val channels: Int,
    val channelsLast: Boolean, // the input is [height][width][channels], else [channels][height][width]
    val scale: Float,
    val mean: FloatArray,
    val std: FloatArray,
)

/** The model's input of a picture of `image`'s size: [pixels] is [height][width][channels], a byte each from 0 to 255. */
fun preprocessImage(pixels: ByteArray, image: ImageValues): FloatArray {
    val plane = image.height * image.width
    require(pixels.size == plane * image.channels) { "${pixels.size} bytes are not a picture of this model" }
    val values = FloatArray(pixels.size)
    for (i in 0 until plane) {
        for (channel in 0 until image.channels) {
            val from = i * image.channels + channel
            val to = if (image.channelsLast) from else channel * plane + i
            val pixel = (pixels[from].toInt() and 0xFF).toFloat()
            values[to] = (pixel * image.scale - image.mean[channel]) / image.std[channel]
        }
    }
    return values
}
