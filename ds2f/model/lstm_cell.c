// The elementwise part of an LSTM's frame, forward and backward: what lstm_cell.py says in plain torch.
//
// Arithmetic is in float32. Gates, h, y and their gradients are stored as float32, bfloat16 or float16; cell states are
// float32. A row is computed in pieces: stored numbers become float32 in buffers, loops without branches compute on the
// buffers, and results are rounded to nearest even as they are stored. Compilers turn such loops into vector
// instructions without -ffast-math, so infinities and NaN keep their meaning.

#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32, BFLOAT16, FLOAT16 };
enum { BASELINE, AVX2, AVX512 };
enum { PIECE = 128, LANES = 16 };  // units of a piece; pieces are filled up to whole vectors of the widest kind

// One direction of a layer. ``lstm_cell.py`` declares the same fields.
typedef struct {
    int64_t batch, units;
    int32_t storage, capability;
    const float *c;  // [B, H], before the first frame
    float *cells;    // [T, B, H]
    void *gates;     // [T, B, 4H]: i, f, g, o; the backward pass overwrites them with the gradients of their inputs
    void *y;         // [T, B, H]
    const void *dy;  // [T, B, H], gradient of y
    float *dc;       // [B, H], gradient of the cell state; the backward pass moves it from after the frame to before it
} Layer;

typedef float Piece[PIECE] __attribute__((aligned(64)));

INLINE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// exp(x) = scale * (1 + fraction) with fraction = exp(r) - 1, |r| <= ln(2) / 2, for x from -88 to 89. Where exp(x) is
// out of the range of float32, scale is 0 or infinite. The polynomial is a minimax fit, of relative error 3e-9.
INLINE void split_exp(float x, float *scale, float *fraction) {
    const float to_integer = 12582912.0f;  // 1.5 * 2^23: sums with it are rounded to integers, in their lowest bits
    float shifted = x * 1.44269504f + to_integer;
    float n = shifted - to_integer;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln(2) in two parts, the first of few bits
    float q = 1.38145399e-3f;
    q = q * r + 8.36874513e-3f;
    q = q * r + 4.16683908e-2f;
    q = q * r + 1.66665204e-1f;
    q = q * r + 4.99999934e-1f;
    *fraction = r + r * r * q;
    *scale = float_of((bits_of(shifted) + 127u) << 23);
}

INLINE float sigmoid(float x) {
    float scale, fraction, minus = -x;
    minus = minus < -88.0f ? -88.0f : minus;  // comparisons in this form leave NaN as it is
    minus = minus > 89.0f ? 89.0f : minus;
    split_exp(minus, &scale, &fraction);
    return 1.0f / (1.0f + scale * (1.0f + fraction));
}

INLINE float tanh_of(float x) {
    float scale, fraction, size = float_of(bits_of(x) & 0x7fffffffu);
    size = size > 10.0f ? 10.0f : size;  // tanh(10) is 1 in float32
    split_exp(-2.0f * size, &scale, &fraction);
    float expm1 = scale * fraction + (scale - 1.0f);
    float positive = -expm1 / (2.0f + expm1);
    return float_of(bits_of(positive) | (bits_of(x) & 0x80000000u));
}

INLINE float float_of_half(uint32_t half) {
    uint32_t size = half & 0x7fffu;
    float subnormal = float_of(size + 0x3f000000u) - 0.5f;  // the last bit of 0.5 is 2^-24, as that of small halves
    uint32_t normal = (size << 13) + ((size >= 0x7c00u ? 224u : 112u) << 23);
    uint32_t bits = size < 0x400u ? bits_of(subnormal) : normal;
    return float_of(bits | (half & 0x8000u) << 16);
}

INLINE uint16_t half_of_float(float x) {
    uint32_t bits = bits_of(x), size = bits & 0x7fffffffu;
    uint32_t subnormal = bits_of(float_of(size) + 0.5f) - 0x3f000000u;
    uint32_t normal = (size + 0xfffu + (size >> 13 & 1u) - (112u << 23)) >> 13;
    uint32_t half = size < 0x38800000u ? subnormal : normal;
    half = size >= 0x477ff000u ? 0x7c00u : half;  // 65520 and more
    half = size > 0x7f800000u ? 0x7e00u : half;
    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

INLINE uint16_t bfloat_of_float(float x) {
    uint32_t bits = bits_of(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

INLINE void load(float *piece, const void *stored, int64_t at, int count, int32_t storage) {
    if (storage == FLOAT32) {
        memcpy(piece, (const float *)stored + at, count * sizeof *piece);
    } else {
        const uint16_t *from = (const uint16_t *)stored + at;
        if (storage == BFLOAT16)
            for (int k = 0; k < count; k++) piece[k] = float_of((uint32_t)from[k] << 16);
        else
            for (int k = 0; k < count; k++) piece[k] = float_of_half(from[k]);
    }
}

INLINE void store(const float *piece, void *stored, int64_t at, int count, int32_t storage) {
    if (storage == FLOAT32) {
        memcpy((float *)stored + at, piece, count * sizeof *piece);
    } else {
        uint16_t *to = (uint16_t *)stored + at;
        if (storage == BFLOAT16)
            for (int k = 0; k < count; k++) to[k] = bfloat_of_float(piece[k]);
        else
            for (int k = 0; k < count; k++) to[k] = half_of_float(piece[k]);
    }
}

INLINE void load_gates(Piece *gates, const void *stored, int64_t at, int64_t units, int count, int32_t storage) {
    for (int gate = 0; gate < 4; gate++) load(gates[gate], stored, at + gate * units, count, storage);
}

INLINE void store_gates(const Piece *gates, void *stored, int64_t at, int64_t units, int count, int32_t storage) {
    for (int gate = 0; gate < 4; gate++) store(gates[gate], stored, at + gate * units, count, storage);
}

INLINE void forward(const Layer *layer, const void *inputs, int64_t time) {
    const int64_t batch = layer->batch, units = layer->units, frame = batch * units;
    const int32_t storage = layer->storage;
    const float *before = time ? layer->cells + (time - 1) * frame : layer->c;
    float *after = layer->cells + time * frame;
    Piece gates[4] = {{0}}, c = {0}, h;
    float *i = gates[0], *f = gates[1], *g = gates[2], *o = gates[3];
    for (int64_t row = 0; row < batch; row++) {
        for (int64_t unit = 0; unit < units; unit += PIECE) {
            const int count = (int)(units - unit < PIECE ? units - unit : PIECE), lanes = (count + LANES - 1) & -LANES;
            const int64_t of_c = row * units + unit, of_gate = row * 4 * units + unit;
            load_gates(gates, inputs, of_gate, units, count, storage);
            load(c, before, of_c, count, FLOAT32);
            for (int k = 0; k < lanes; k++) i[k] = sigmoid(i[k]);
            for (int k = 0; k < lanes; k++) f[k] = sigmoid(f[k]);
            for (int k = 0; k < lanes; k++) g[k] = tanh_of(g[k]);
            for (int k = 0; k < lanes; k++) o[k] = sigmoid(o[k]);
            for (int k = 0; k < lanes; k++) {
                c[k] = f[k] * c[k] + i[k] * g[k];
                h[k] = o[k] * tanh_of(c[k]);
            }
            store_gates(gates, layer->gates, time * 4 * frame + of_gate, units, count, storage);
            store(c, after, of_c, count, FLOAT32);
            store(h, layer->y, time * frame + of_c, count, storage);
        }
    }
}

INLINE void backward(const Layer *layer, const void *dh, int64_t time) {
    const int64_t batch = layer->batch, units = layer->units, frame = batch * units;
    const int32_t storage = layer->storage;
    const float *before = time ? layer->cells + (time - 1) * frame : layer->c, *after = layer->cells + time * frame;
    Piece gates[4] = {{0}}, c = {0}, new_c = {0}, of_h = {0}, of_y = {0}, dc = {0};
    float *i = gates[0], *f = gates[1], *g = gates[2], *o = gates[3];
    for (int64_t row = 0; row < batch; row++) {
        for (int64_t unit = 0; unit < units; unit += PIECE) {
            const int count = (int)(units - unit < PIECE ? units - unit : PIECE), lanes = (count + LANES - 1) & -LANES;
            const int64_t of_c = row * units + unit, of_gate = (time * batch + row) * 4 * units + unit;
            load_gates(gates, layer->gates, of_gate, units, count, storage);
            load(c, before, of_c, count, FLOAT32);
            load(new_c, after, of_c, count, FLOAT32);
            load(dc, layer->dc, of_c, count, FLOAT32);
            load(of_h, dh, of_c, count, storage);
            load(of_y, layer->dy, time * frame + of_c, count, storage);
            for (int k = 0; k < lanes; k++) {
                float tanh_c = tanh_of(new_c[k]), of_new_h = of_h[k] + of_y[k];
                float of_new_c = dc[k] + of_new_h * o[k] * (1.0f - tanh_c * tanh_c);
                float of_i = of_new_c * g[k] * i[k] * (1.0f - i[k]);
                dc[k] = of_new_c * f[k];
                f[k] = of_new_c * c[k] * f[k] * (1.0f - f[k]);
                g[k] = of_new_c * i[k] * (1.0f - g[k] * g[k]);
                i[k] = of_i;
                o[k] = of_new_h * tanh_c * o[k] * (1.0f - o[k]);
            }
            store_gates(gates, layer->gates, of_gate, units, count, storage);
            store(dc, layer->dc, of_c, count, FLOAT32);
        }
    }
}

// Both passes once per kind of processor: inlined into a function for that kind, they become its instructions.
#define PASSES(KIND, TARGET)                                                                                     \
    TARGET static void forward_##KIND(const Layer *l, const void *inputs, int64_t time) { forward(l, inputs, time); } \
    TARGET static void backward_##KIND(const Layer *l, const void *dh, int64_t time) { backward(l, dh, time); }

PASSES(baseline, )
#if defined(__x86_64__)
PASSES(avx2, __attribute__((target("avx2,fma"))))
PASSES(avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))))
#endif

EXPORTED int32_t ds2f_lstm_interface(void) { return 1; }  // _INTERFACE of lstm_cell.py

EXPORTED int32_t ds2f_lstm_capability(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
        return AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return AVX2;
#endif
    return BASELINE;
}

EXPORTED void ds2f_lstm_forward(const Layer *layer, const void *inputs, int64_t time) {
#if defined(__x86_64__)
    if (layer->capability == AVX512) return forward_avx512(layer, inputs, time);
    if (layer->capability == AVX2) return forward_avx2(layer, inputs, time);
#endif
    forward_baseline(layer, inputs, time);
}

EXPORTED void ds2f_lstm_backward(const Layer *layer, const void *dh, int64_t time) {
#if defined(__x86_64__)
    if (layer->capability == AVX512) return backward_avx512(layer, dh, time);
    if (layer->capability == AVX2) return backward_avx2(layer, dh, time);
#endif
    backward_baseline(layer, dh, time);
}
