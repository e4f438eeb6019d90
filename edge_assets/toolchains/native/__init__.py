"""Sources that the app samples of several toolchains share: preprocessing in C and in Kotlin, and files in C++."""
