/* The preprocessing of sound that every measurement of this model used, in C99: what preprocess.py computes in NumPy.

   preprocess_sound() makes a mono sound of the model's sampling rate the model's input; nothing is resampled. All is
   computed in double, in the order that is written here, with tables that Python computed, and rounded to float at the
   end: compile with -ffp-contract=off, so that no compiler joins a product and a sum. Nothing here allocates memory.
   C++ includes it as it is. */
#ifndef PREPROCESS_SOUND_H
#define PREPROCESS_SOUND_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { SAMPLES_INT16, SAMPLES_FLOAT32, SAMPLES_FLOAT64 } SampleType;

/* A mono sound: whole numbers as a WAV file of 16 bits has them, or numbers from -1 to 1. */
typedef struct {
  const void *samples;
  size_t count;
  SampleType type;
} Sound;

typedef enum { LOGARITHM_NONE, LOGARITHM_LN, LOGARITHM_LOG10, LOGARITHM_DB } Logarithm;

/* How sounds become the model's input: the waveform, a spectrogram or a mel spectrogram, (value - mean) / std.
   To compute one frame at a time as a sound arrives, give preprocess_sound() the n_fft samples of that frame, and a
   copy of this with samples 0, center 0 and frames 0. */
typedef struct {
  const char *input;    /* NULL: this model takes no sound */
  size_t sampling_rate; /* Hz, of every sound */
  size_t samples;       /* a sound is cut at its end, or padded with zeros, to so many; 0: it is not */
  size_t n_fft;         /* samples of a frame; 0: the input is the waveform */
  size_t hop;
  int center; /* frame i is around sample i * hop, the ends reflected; else it begins there */
  double power; /* of the magnitudes */
  const double *window; /* of n_fft values each */
  const double *cosines;
  const double *sines; /* with the sign of exp(-i) */
  size_t n_mels; /* 0: the rows are bins */
  const uint16_t *mel_first;
  const uint16_t *mel_count;
  const double *mel_weights; /* of one band after the other */
  Logarithm logarithm;
  double least_energy; /* before the logarithm */
  int has_below_peak;
  double below_peak; /* values that far below the largest are raised to that */
  size_t frames; /* cut at the end, or padded with silence, to so many; 0: as many as there are */
  double mean, std;
  int time_first; /* the model's input is [frames][rows], else [rows][frames] */
} AudioValues;

static inline double sample_at(const Sound *sound, size_t i) {
  if (i >= sound->count) return 0.0;
  if (sound->type == SAMPLES_INT16) return (double)((const int16_t *)sound->samples)[i] / 32768.0;
  if (sound->type == SAMPLES_FLOAT32) return (double)((const float *)sound->samples)[i];
  return ((const double *)sound->samples)[i];
}

/* Samples of a sound after it was cut or padded. */
static inline size_t samples_taken(size_t count, const AudioValues *audio) {
  return audio->samples != 0 ? audio->samples : count;
}

/* Frames that so many samples have by themselves; 0: they are too few for one, or to be reflected. */
static inline size_t frames_of(size_t count, const AudioValues *audio) {
  const size_t half = audio->center ? audio->n_fft / 2 : 0, padded = count + 2 * half;
  if ((audio->center && count <= half) || padded < audio->n_fft) return 0;
  return 1 + (padded - audio->n_fft) / audio->hop;
}

/* Rows of a spectrogram: mel bands or bins. */
static inline size_t sound_rows(const AudioValues *audio) {
  return audio->n_mels != 0 ? audio->n_mels : audio->n_fft / 2 + 1;
}

/* Values of the model's input for a sound of `count` samples; 0: it is too short. */
static inline size_t sound_values(size_t count, const AudioValues *audio) {
  const size_t taken = samples_taken(count, audio);
  if (audio->n_fft == 0) return taken;
  const size_t own = frames_of(taken, audio);
  if (own == 0) return 0;
  return sound_rows(audio) * (audio->frames != 0 ? audio->frames : own);
}

/* double values of scratch that preprocess_sound() needs; none for a waveform. */
#define SOUND_SCRATCH(n_fft) (4 * (n_fft))

/* The windowed samples of one frame as complex numbers. */
static inline void cut_frame(const Sound *sound, size_t frame, double *complex_values, const AudioValues *audio) {
  const int64_t count = (int64_t)samples_taken(sound->count, audio);
  const int64_t begin = (int64_t)(frame * audio->hop) - (int64_t)(audio->center ? audio->n_fft / 2 : 0);
  for (size_t i = 0; i < audio->n_fft; i++) {
    int64_t at = begin + (int64_t)i;
    if (at < 0) at = -at;
    if (at >= count) at = 2 * (count - 1) - at;
    complex_values[2 * i] = sample_at(sound, (size_t)at) * audio->window[i];
    complex_values[2 * i + 1] = 0.0;
  }
}

/* The discrete Fourier transform of n_fft real values, by Stockham's steps: one for each prime factor, from the
   smallest on. Spectra of real values are symmetric, so half of each is computed. `from` and `to` are both overwritten;
   returns the one that holds the result. */
static inline double *fourier_transform(double *from, double *to, const AudioValues *audio) {
  const size_t n = audio->n_fft;
  size_t done = 1, rest = n, factor = 2;
  while (rest > 1) {
    while (rest % factor != 0) factor++;
    rest /= factor;
    const size_t size = done * factor;
    for (size_t i = 0; i < rest; i++) {
      for (size_t k = 0; 2 * k <= size; k++) {
        double real = 0.0, imaginary = 0.0;
        size_t turn = 0;
        for (size_t part = 0; part < factor; part++) {
          const double *value = from + 2 * ((i + part * rest) * done + k % done);
          real += audio->cosines[turn] * value[0] - audio->sines[turn] * value[1];
          imaginary += audio->cosines[turn] * value[1] + audio->sines[turn] * value[0];
          turn += k * rest;
          if (turn >= n) turn -= n;
        }
        double *found = to + 2 * i * size;
        found[2 * k] = real;
        found[2 * k + 1] = imaginary;
        if (k != 0 && 2 * k < size) {
          found[2 * (size - k)] = real;
          found[2 * (size - k) + 1] = -imaginary;
        }
      }
    }
    double *const result = to;
    to = from;
    from = result;
    done = size;
  }
  return from;
}

/* Magnitudes to the power of one frame, n_fft / 2 + 1 of them, in a part of `scratch`. */
static inline const double *energies_of(const Sound *sound, size_t frame, const AudioValues *audio, double *scratch) {
  double *const other = scratch + 2 * audio->n_fft;
  const size_t bins = audio->n_fft / 2 + 1;
  if (frame >= frames_of(samples_taken(sound->count, audio), audio)) { /* silence that was added */
    for (size_t bin = 0; bin < bins; bin++) scratch[bin] = 0.0;
    return scratch;
  }
  cut_frame(sound, frame, scratch, audio);
  const double *spectrum = fourier_transform(scratch, other, audio);
  double *energies = spectrum == scratch ? other : scratch;
  for (size_t bin = 0; bin < bins; bin++) {
    const double real = spectrum[2 * bin], imaginary = spectrum[2 * bin + 1];
    const double energy = real * real + imaginary * imaginary;
    energies[bin] = audio->power == 2.0   ? energy
                    : audio->power == 1.0 ? sqrt(energy)
                                          : pow(energy, audio->power / 2.0);
  }
  return energies;
}

static inline double logarithm_of(double energy, const AudioValues *audio) {
  if (audio->logarithm == LOGARITHM_NONE) return energy;
  const double raised = energy < audio->least_energy ? audio->least_energy : energy;
  if (audio->logarithm == LOGARITHM_LN) return log(raised);
  return audio->logarithm == LOGARITHM_DB ? 10.0 * log10(raised) : log10(raised);
}

/* The rows of one frame go to `values`, at a distance of `step`, where that is not NULL. Returns the largest of them
   before mean and std. */
static inline double write_frame(const Sound *sound, size_t frame, double least, float *values, size_t step,
                                 const AudioValues *audio, double *scratch) {
  const double *energies = energies_of(sound, frame, audio, scratch);
  const double *weights = audio->mel_weights;
  const size_t rows = sound_rows(audio);
  double largest = -HUGE_VAL;
  for (size_t row = 0; row < rows; row++) {
    double energy = 0.0;
    if (audio->n_mels == 0) {
      energy = energies[row];
    } else {
      const double *of_band = energies + audio->mel_first[row];
      for (size_t i = 0; i < audio->mel_count[row]; i++) energy += weights[i] * of_band[i];
      weights += audio->mel_count[row];
    }
    double value = logarithm_of(energy, audio);
    if (value > largest) largest = value;
    if (value < least) value = least;
    if (values != NULL) values[row * step] = (float)((value - audio->mean) / audio->std);
  }
  return largest;
}

/* The model's input of a sound in `values`, which has room for sound_values() of it. `scratch` has SOUND_SCRATCH(n_fft)
   values. Returns 0 where the sound is too short. Where values are raised to the peak the spectra are computed twice,
   because nothing here has room for all of them. */
static inline int preprocess_sound(const Sound *sound, float *values, const AudioValues *audio, double *scratch) {
  const size_t count = sound_values(sound->count, audio);
  if (count == 0) return 0;
  if (audio->n_fft == 0) {
    for (size_t i = 0; i < count; i++) values[i] = (float)((sample_at(sound, i) - audio->mean) / audio->std);
    return 1;
  }
  const size_t rows = sound_rows(audio), frames = count / rows;
  double least = -HUGE_VAL;
  if (audio->has_below_peak && audio->logarithm != LOGARITHM_NONE) {
    double peak = -HUGE_VAL;
    for (size_t frame = 0; frame < frames; frame++) {
      const double largest = write_frame(sound, frame, least, NULL, 0, audio, scratch);
      if (largest > peak) peak = largest;
    }
    least = peak - audio->below_peak;
  }
  for (size_t frame = 0; frame < frames; frame++) {
    float *to = audio->time_first ? values + frame * rows : values + frame;
    write_frame(sound, frame, least, to, audio->time_first ? 1 : frames, audio, scratch);
  }
  return 1;
}

#endif
