"""The scripts that one would write instead: the digits checkpoint converted, verified and measured, nothing else.

    python -m benchmarks.handwritten CHECKPOINT OUTPUT [--mode rapid] [--matrix cpu]

One module and one process for each toolchain, so that its imports are paid once. Each distinct file is made once,
compared with PyTorch eager on the whole test set in the runtime that runs it here, timed where this machine is the
target, and its peak memory taken where its runtime here is the one on the target. No orchestrator, no tracking, no
store: a second call does everything again. What cannot sensibly be made of this network is left out.

Of the product nothing is imported, with one exception: no other library than its own evaluator computes a CoreML
package outside of macOS. Pages in the browser run the product's JavaScript, which is what ships to it.
"""
