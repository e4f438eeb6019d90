// Runs the released LiteRT model on Android. ModelValues.kt has the constants of this model.
package released

import android.content.Context
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.TensorBuffer

/** The model from the app's assets. Not to be used from several threads at once; close it when done. */
class ReleasedModel(context: Context, accelerator: Accelerator = Accelerator.CPU) : AutoCloseable {
    private val assets = context.assets
    private val model = CompiledModel.create(assets, ModelValues.FILE, CompiledModel.Options(accelerator))
    private val inputs = ModelValues.INPUTS.associate { it.name to model.createInputBuffer(it.name) }
    private val outputs = ModelValues.OUTPUTS.associate { it.name to model.createOutputBuffer(it.name) }

    /**
     * Outputs by name for inputs by name: a FloatArray (of a picture: `preprocessPicture`, of a sound:
     * `preprocessSound`), IntArray, BooleanArray or ByteArray, by the type in [ModelValues.INPUTS]. Token ids are an
     * IntArray.
     */
    fun run(values: Map<String, Any>): Map<String, Any> {
        for ((name, buffer) in inputs) write(buffer, values.getValue(name))
        model.run(inputs, outputs)
        return ModelValues.OUTPUTS.associate { it.name to read(outputs.getValue(it.name), it.type) }
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

    override fun close() {
        for (buffer in inputs.values + outputs.values) buffer.close()
        model.close()
    }

    private fun asset(name: String): ByteArray = assets.open(name).use { it.readBytes() }

    private fun write(buffer: TensorBuffer, value: Any) = when (value) {
        is FloatArray -> buffer.writeFloat(value)
        is IntArray -> buffer.writeInt(value)
        is BooleanArray -> buffer.writeBoolean(value)
        is ByteArray -> buffer.writeInt8(value)
        else -> throw IllegalArgumentException("LiteRT takes no ${value::class}")
    }

    private fun read(buffer: TensorBuffer, type: TensorType): Any = when (type) {
        TensorType.FLOAT32 -> buffer.readFloat()
        TensorType.INT32 -> buffer.readInt()
        TensorType.BOOL -> buffer.readBoolean()
        else -> buffer.readInt8()
    }
}
