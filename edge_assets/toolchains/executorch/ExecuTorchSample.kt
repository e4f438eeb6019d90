// Runs the released ExecuTorch program on Android. ModelValues.kt has the constants of this model.
package released

import android.content.Context
import java.io.File
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/** The program from the app's assets. Destroy it when done. */
class ReleasedModel(context: Context) : AutoCloseable {
    private val assets = context.assets
    private val module: Module

    init {
        val file = File(context.filesDir, ModelValues.FILE) // ExecuTorch opens files, and assets are none
        assets.open(ModelValues.FILE).use { from -> file.outputStream().use { to -> from.copyTo(to) } }
        module = Module.load(file.absolutePath)
    }

    /**
     * Outputs by name for inputs by name: a FloatArray (of a picture: `preprocessPicture`, of a sound:
     * `preprocessSound`), LongArray, IntArray or ByteArray, by the type in [ModelValues.INPUTS]. Token ids are a
     * LongArray.
     */
    fun run(values: Map<String, Any>): Map<String, Any> {
        val inputs = ModelValues.INPUTS.map { EValue.from(tensor(it, values.getValue(it.name))) }
        val outputs = module.forward(*inputs.toTypedArray())
        return ModelValues.OUTPUTS.mapIndexed { i, it -> it.name to read(outputs[i].toTensor(), it.type) }.toMap()
    }

    /** Largest difference, by output, from what was recorded at release, on the sample in the app's assets. */
    fun verify(): Map<String, Double> {
        val sample = ModelValues.INPUTS.associate {
            it.name to sampleInput(asset("sample_${it.name}.bin"), it)
        }
        val found = run(sample)
        return ModelValues.OUTPUTS.associate {
            val expected = decode(asset("expected_${it.name}.bin"), it.type)
            it.name to largestDifference(found.getValue(it.name), expected)
        }
    }

    override fun close() = module.destroy()

    private fun asset(name: String): ByteArray = assets.open(name).use { it.readBytes() }

    private fun tensor(values: TensorValues, value: Any): Tensor {
        val shape = LongArray(values.shape.size) { values.shape[it].toLong() }
        return when (value) {
            is FloatArray -> Tensor.fromBlob(value, shape)
            is LongArray -> Tensor.fromBlob(value, shape)
            is IntArray -> Tensor.fromBlob(value, shape)
            is ByteArray -> Tensor.fromBlobUnsigned(value, shape)
            else -> throw IllegalArgumentException("ExecuTorch on Android takes no ${value::class}")
        }
    }

    private fun read(tensor: Tensor, type: TensorType): Any = when (type) {
        TensorType.FLOAT32 -> tensor.dataAsFloatArray
        TensorType.INT64 -> tensor.dataAsLongArray
        TensorType.INT32 -> tensor.dataAsIntArray
        TensorType.UINT8 -> tensor.dataAsUnsignedByteArray
        TensorType.BOOL -> throw IllegalArgumentException("ExecuTorch on Android has no boolean tensors")
    }
}
