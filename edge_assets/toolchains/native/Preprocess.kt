// The preprocessing that every measurement of this model used, in Kotlin: what preprocess.py computes in NumPy.
package released

import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min

enum class TensorType { FLOAT32, INT64, INT32, UINT8, BOOL }

/** One input or output of the model, as its file has it. The batch is 1. */
class TensorValues(val name: String, val type: TensorType, val shape: IntArray) {
    val count: Int get() = shape.fold(1) { product, axis -> product * axis }
}

/**
 * A picture as it was decoded, upright by its EXIF orientation: [height][width][channels], a byte each, red first.
 * Channels: 1 grey, 2 grey and alpha, 3 red, green and blue, 4 these and alpha; or as many as the model has.
 */
class Picture(val pixels: ByteArray, val height: Int, val width: Int, val channels: Int)

enum class Resize { NONE, STRETCH, CROP, LETTERBOX }
enum class Filter(val reach: Double) { NEAREST(0.5), BOX(0.5), BILINEAR(1.0), BICUBIC(2.0) }
enum class Align { CENTER, START }
enum class Order { RGB, BGR }
enum class OtherChannels { CONVERT, COMPOSITE, REFUSE }

/** How pictures become the model's input: resized, then (pixel * scale - mean) / std for each channel. */
class ImageValues(
    val input: String,
    val height: Int,
    val width: Int,
    val channels: Int,
    val channelsLast: Boolean, // the input is [height][width][channels], else [channels][height][width]
    val scale: Float,
    val mean: FloatArray, // in the model's order of channels
    val std: FloatArray,
    val resize: Resize,
    val resizeHeight: Int, // of CROP; resizeWidth 0: this is of the shorter side
    val resizeWidth: Int,
    val filter: Filter,
    val antialias: Boolean,
    val fill: IntArray, // of LETTERBOX, red first
    val align: Align,
    val order: Order,
    val otherChannels: OtherChannels,
    val background: IntArray, // of COMPOSITE: red, green, blue
)

/** The model's input of a picture of any size. */
fun preprocessPicture(picture: Picture, image: ImageValues): FloatArray =
    preprocessImage(fitPicture(picture, image), image)

/** The model's input of a picture of `image`'s size: [pixels] is [height][width][channels], 0 to 255, red first. */
fun preprocessImage(pixels: ByteArray, image: ImageValues): FloatArray {
    val plane = image.height * image.width
    require(pixels.size == plane * image.channels) { "${pixels.size} bytes are not a picture of this model" }
    val values = FloatArray(pixels.size)
    for (i in 0 until plane) {
        for (channel in 0 until image.channels) {
            val given = if (image.order == Order.BGR && channel < 3) 2 - channel else channel
            val to = if (image.channelsLast) i * image.channels + channel else channel * plane + i
            val pixel = byteAt(pixels, i * image.channels + given).toFloat()
            values[to] = (pixel * image.scale - image.mean[channel]) / image.std[channel]
        }
    }
    return values
}

// --- a picture of the model's size and channels: whole numbers alone ---------------------------------------------

private const val WEIGHT_BITS = 22 // of a weight's fraction

private fun byteAt(pixels: ByteArray, at: Int): Int = pixels[at].toInt() and 0xFF

/** The picture as the model's [height][width][channels], red first. */
fun fitPicture(picture: Picture, image: ImageValues): ByteArray {
    val own = withChannels(picture, image)
    if (image.resize == Resize.NONE) {
        require(own.height == image.height && own.width == image.width) {
            "the model takes pictures of ${image.height} x ${image.width} alone, not ${own.height} x ${own.width}"
        }
        return own.pixels
    }
    val (rows, columns) = place(own, image)
    val narrow = resizeRows(own, columns)
    val whole = ByteArray(image.height * image.width * image.channels) { image.fill[it % image.channels].toByte() }
    resizeColumns(narrow, rows, columns, whole, image)
    return whole
}

/** One axis that is resized from [size] to [scaled] pixels; the model's picture begins at [offset] of these. */
private class Axis(val size: Int, val scaled: Int, val offset: Int, length: Int, image: ImageValues) {
    val begin = max(offset, 0)
    val end = min(offset + length, scaled)
    private val filter = image.filter
    private val antialias = image.antialias
    private val step = size.toDouble() / scaled.toDouble()
    private val widened = if (antialias) max(step, 1.0) else 1.0
    private val reach = filter.reach * widened
    private val taps = if (filter == Filter.NEAREST) 1 else ceil(reach).toInt() * 2 + 1

    /** Of which pixels the resized one [at] is made, and how much of each. */
    fun weigh(at: Int): Pair<IntArray, IntArray> {
        if (filter == Filter.NEAREST) return Pair(intArrayOf(nearest(at)), intArrayOf(1 shl WEIGHT_BITS))
        val center = (at.toDouble() + 0.5) * step
        val first = floor(center - reach + 0.5).toInt()
        val amounts = DoubleArray(taps) { amount(first + it, center) }
        var total = 0.0
        for (amount in amounts) total += amount
        val weights = IntArray(taps) {
            val share = amounts[it] / total * (1 shl WEIGHT_BITS).toDouble()
            (share + (if (share < 0.0) -0.5 else 0.5)).toInt()
        }
        return Pair(IntArray(taps) { min(max(first + it, 0), size - 1) }, weights)
    }

    private fun nearest(at: Int): Int {
        var position = 0.5 * step
        repeat(at) { position += step }
        return min(position.toInt(), size - 1)
    }

    private fun amount(position: Int, center: Double): Double {
        if (position >= floor(center + reach + 0.5).toInt()) return 0.0
        if (antialias && (position < 0 || position >= size)) return 0.0 // else it is the pixel at the edge
        return value((position.toDouble() - center + 0.5) * (1.0 / widened))
    }

    private fun value(distance: Double): Double {
        if (filter == Filter.BOX) return if (distance > -0.5 && distance <= 0.5) 1.0 else 0.0
        val x = abs(distance)
        if (filter == Filter.BILINEAR) return max(1.0 - x, 0.0)
        val a = if (antialias) -0.5 else -0.75
        if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
        if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a
        return 0.0
    }
}

/** How rows and columns of a picture are resized. */
private fun place(picture: Picture, image: ImageValues): Pair<Axis, Axis> {
    var height = image.height
    var width = image.width
    var top = 0
    var left = 0
    if (image.resize == Resize.CROP) {
        val (before, beside) = beforeCrop(picture, image)
        height = before
        width = beside
        top = nearestWhole((height - image.height).toLong(), 2)
        left = nearestWhole((width - image.width).toLong(), 2)
    } else if (image.resize == Resize.LETTERBOX) {
        val (inner, beside) = inside(picture, image)
        height = inner
        width = beside
        if (image.align == Align.CENTER) {
            top = -((image.height - height) / 2)
            left = -((image.width - width) / 2)
        }
    }
    val rows = Axis(picture.height, height, top, image.height, image)
    return Pair(rows, Axis(picture.width, width, left, image.width, image))
}

private fun beforeCrop(picture: Picture, image: ImageValues): Pair<Int, Int> {
    val shorter = image.resizeHeight
    if (image.resizeWidth != 0) return Pair(shorter, image.resizeWidth)
    if (picture.width <= picture.height) {
        return Pair((shorter.toLong() * picture.height / picture.width).toInt(), shorter)
    }
    return Pair(shorter, (shorter.toLong() * picture.width / picture.height).toInt())
}

private fun inside(picture: Picture, image: ImageValues): Pair<Int, Int> {
    val height = image.height.toLong() * picture.width
    val width = image.width.toLong() * picture.height
    if (height <= width) return Pair(image.height, max(nearestWhole(height, picture.height.toLong()), 1))
    return Pair(max(nearestWhole(width, picture.width.toLong()), 1), image.width)
}

/** The nearest whole number of a fraction; of a half, the even one. */
private fun nearestWhole(numerator: Long, denominator: Long): Int {
    val whole = numerator / denominator
    val rest = numerator % denominator
    val isMore = 2 * rest > denominator || (2 * rest == denominator && whole % 2 == 1L)
    return (if (isMore) whole + 1 else whole).toInt()
}

/** Along the rows: [picture's height][columns that are seen][channels]. */
private fun resizeRows(picture: Picture, columns: Axis): ByteArray {
    val seen = columns.end - columns.begin
    val channels = picture.channels
    val narrow = ByteArray(picture.height * seen * channels)
    for (x in 0 until seen) {
        val (positions, weights) = columns.weigh(columns.begin + x)
        for (y in 0 until picture.height) {
            for (channel in 0 until channels) {
                var total = 1 shl (WEIGHT_BITS - 1)
                for (tap in positions.indices) {
                    val at = (y * picture.width + positions[tap]) * channels + channel
                    total += byteAt(picture.pixels, at) * weights[tap]
                }
                narrow[(y * seen + x) * channels + channel] = byteOf(total)
            }
        }
    }
    return narrow
}

/** Along the columns of [narrow], into the model's picture. */
private fun resizeColumns(narrow: ByteArray, rows: Axis, columns: Axis, whole: ByteArray, image: ImageValues) {
    val line = (columns.end - columns.begin) * image.channels
    val left = columns.begin - columns.offset
    for (y in rows.begin until rows.end) {
        val (positions, weights) = rows.weigh(y)
        val to = ((y - rows.offset) * image.width + left) * image.channels
        for (i in 0 until line) {
            var total = 1 shl (WEIGHT_BITS - 1)
            for (tap in positions.indices) total += byteAt(narrow, positions[tap] * line + i) * weights[tap]
            whole[to + i] = byteOf(total)
        }
    }
}

private fun byteOf(total: Int): Byte = min(max(total shr WEIGHT_BITS, 0), 255).toByte()

/** The picture with the model's channels. */
private fun withChannels(picture: Picture, image: ImageValues): Picture {
    if (picture.channels == image.channels) return picture
    val areKnown = picture.channels in 1..4 && (image.channels == 1 || image.channels == 3 || image.channels == 4)
    require(areKnown && image.otherChannels != OtherChannels.REFUSE) {
        "the model takes pictures of ${image.channels} channels, not ${picture.channels}"
    }
    val count = picture.height * picture.width
    val pixels = ByteArray(count * image.channels)
    for (i in 0 until count) {
        for (channel in 0 until image.channels) {
            pixels[i * image.channels + channel] = channelOf(picture, i * picture.channels, channel, image).toByte()
        }
    }
    return Picture(pixels, picture.height, picture.width, image.channels)
}

/** One of the model's channels, red first, of the pixel that begins [at]. */
private fun channelOf(picture: Picture, at: Int, channel: Int, image: ImageValues): Int {
    if (channel == 3) return if (picture.channels == 2) byteAt(picture.pixels, at + 1) else 255
    if (image.channels != 1) return colourOf(picture, at, channel, image)
    val red = colourOf(picture, at, 0, image)
    val green = colourOf(picture, at, 1, image)
    val blue = colourOf(picture, at, 2, image)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) shr 16
}

/** Red, green or blue of a pixel, over the background where that is asked for. */
private fun colourOf(picture: Picture, at: Int, channel: Int, image: ImageValues): Int {
    val given = picture.channels
    val value = byteAt(picture.pixels, if (given < 3) at else at + channel)
    val hasAlpha = given == 2 || given == 4
    if (!hasAlpha || image.channels == 4 || image.otherChannels != OtherChannels.COMPOSITE) return value
    val alpha = byteAt(picture.pixels, at + given - 1)
    return (2 * (value * alpha + image.background[channel] * (255 - alpha)) + 255) / 510
}
