// What the engine `fused` is made of on the CPU: the layers of a chain, forward and backward, across points.
//
// A V holds one number of LANES points. A chunk is C of them: all of its activations stay in the first-level cache, and
// every sum over its points is taken lane by lane, in a register. Lanes are added up once per update. So a float32 sum
// over a batch is one of LANES · (chunks) short ones, and its rounding stays far below that of a sum taken in order.
//
// `fused_source.py` writes constants before this text and the network after it:
//   T, LANES, SHUFFLE_INT  the numbers, and how many of them a vector has
//   BATCH, MOST            points per update; vectors per chunk, at most
//   WEIGHTS, RATE, MEAN    number of weights; learning rate over the number of terms of the mean; one over that number
//   EXP, LOG, TANH         the C library's functions of T

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

#if LANES == 1
typedef T V;
typedef T Unaligned;
#else
typedef T V __attribute__((vector_size(LANES * sizeof(T)), may_alias));
typedef V Unaligned __attribute__((aligned(alignof(T)), may_alias));
typedef SHUFFLE_INT Index __attribute__((vector_size(LANES * sizeof(T))));
#endif

// glibc's own vectorised functions, which its headers offer under -ffast-math only.
#if defined(__GLIBC__) && defined(__x86_64__) && !defined(__clang__)
#if __GLIBC_PREREQ(2, 35)
extern "C" __attribute__((simd("notinbranch"))) T EXP(T) noexcept;
extern "C" __attribute__((simd("notinbranch"))) T LOG(T) noexcept;
extern "C" __attribute__((simd("notinbranch"))) T TANH(T) noexcept;
#endif
#endif

constexpr int CHUNK = MOST * LANES;
constexpr int FULL = BATCH / CHUNK;
constexpr int REST = BATCH % CHUNK;
constexpr int REST_VECTORS = (REST + LANES - 1) / LANES;
constexpr int REST_TAIL = REST - (REST_VECTORS - 1) * LANES;
constexpr int CHUNKS = FULL + (REST > 0);
constexpr int PADDED = (WEIGHTS / LANES + 1) * LANES;  // the sum of the losses comes after those of the weights

// Where a batch has a vector's points at all, its last vector overlaps with the one before: no load leaves the batch.
// Lanes that are not the last vector's own count as nothing.
constexpr bool OVERLAPS = BATCH >= LANES;

struct Keep {
    T lanes[3 * LANES];
    constexpr Keep() : lanes() {
        for (int l = LANES; l < 2 * LANES; ++l) lanes[l] = 1;
    }
};
alignas(64) static constexpr Keep KEEP;

// 1 in each lane that counts of a last vector that has TAIL points of its own, 0 elsewhere.
template <int TAIL> INLINE V kept() {
    return *(const Unaligned*)(KEEP.lanes + (OVERLAPS ? TAIL : 2 * LANES - TAIL));
}

template <int TAIL, int C> constexpr bool partial(int c) { return TAIL < LANES && c == C - 1; }

// points [C · LANES][WIDTH] → values [WIDTH][C], one lane a point.
template <int TAIL, typename Number, int WIDTH, int C> INLINE void load(const Number* points, V (&values)[WIDTH][C]) {
    UNROLL for (int c = 0; c < C; ++c) {
        const bool last = partial<TAIL, C>(c);
        const Number* from = points + (c * LANES - (last && OVERLAPS ? LANES - TAIL : 0)) * WIDTH;
        const int count = last && !OVERLAPS ? TAIL : LANES;
        if constexpr (WIDTH == 1 && std::is_same_v<Number, T>) {
            if (count == LANES) {
                values[0][c] = *(const Unaligned*)from;
                continue;
            }
        }
        if (count < LANES)
            for (int k = 0; k < WIDTH; ++k) values[k][c] = V{};
        for (int l = 0; l < count; ++l)
            for (int k = 0; k < WIDTH; ++k) ((T*)&values[k][c])[l] = (T)from[l * WIDTH + k];
    }
}

// y = W x + b; w holds W [OUT][IN], then b [OUT].
template <bool BIAS, int IN, int OUT, int C> INLINE void linear(const T* w, const V (&x)[IN][C], V (&y)[OUT][C]) {
    // A sum that waits for itself takes four cycles a term: so many at a time keep both multipliers busy.
    constexpr int PARTS = C >= 4 || IN < 4 ? 1 : 4 / C;
    for (int o = 0; o < OUT; ++o) {
        V sum[PARTS][C] = {};
        for (int k = 0; k < IN; k += PARTS) {
            UNROLL for (int part = 0; part < PARTS; ++part) {
                if (k + part < IN) {
                    UNROLL for (int c = 0; c < C; ++c) sum[part][c] += w[o * IN + k + part] * x[k + part][c];
                }
            }
        }
        UNROLL for (int c = 0; c < C; ++c) {
            V total = sum[0][c];
            UNROLL for (int part = 1; part < PARTS; ++part) total += sum[part][c];
            y[o][c] = BIAS ? total + w[OUT * IN + o] : total;
        }
    }
}

// The gradient by x, W^T delta; delta is the gradient by y.
template <int IN, int OUT, int C> INLINE void back(const T* w, const V (&delta)[OUT][C], V (&gradient)[IN][C]) {
    for (int k = 0; k < IN; ++k) {
        V sum[C] = {};
        for (int o = 0; o < OUT; ++o) {
            UNROLL for (int c = 0; c < C; ++c) sum[c] += w[o * IN + k] * delta[o][c];
        }
        UNROLL for (int c = 0; c < C; ++c) gradient[k][c] = sum[c];
    }
}

INLINE void add(V& sum, V terms) { sum = CHUNKS == 1 ? terms : sum + terms; }

// The gradients by W, delta x^T, and by b, summed lane by lane; laid out as the weights.
template <bool BIAS, int IN, int OUT, int C> INLINE void gradient(const V (&x)[IN][C], const V (&delta)[OUT][C], V* sums) {
    for (int o = 0; o < OUT; ++o)
        for (int k = 0; k < IN; ++k) {
            V sum = delta[o][0] * x[k][0];
            UNROLL for (int c = 1; c < C; ++c) sum += delta[o][c] * x[k][c];
            add(sums[o * IN + k], sum);
        }
    if constexpr (BIAS)
        for (int o = 0; o < OUT; ++o) {
            V sum = delta[o][0];
            UNROLL for (int c = 1; c < C; ++c) sum += delta[o][c];
            add(sums[OUT * IN + o], sum);
        }
}

// Activations change their values in place: every backward rule here needs nothing but the outputs y.

template <int WIDTH, int C> INLINE void relu(V (&y)[WIDTH][C]) {
    for (int k = 0; k < WIDTH; ++k) {
        UNROLL for (int c = 0; c < C; ++c) y[k][c] = V{} > y[k][c] ? V{} : y[k][c];
    }
}

template <int WIDTH, int C> INLINE void relu_back(const V (&y)[WIDTH][C], V (&delta)[WIDTH][C]) {
    for (int k = 0; k < WIDTH; ++k) {
        UNROLL for (int c = 0; c < C; ++c) delta[k][c] = y[k][c] > V{} ? delta[k][c] : V{};
    }
}

template <int WIDTH, int C> INLINE void tanh(V (&y)[WIDTH][C]) {
    T* number = (T*)y;
    for (int i = 0; i < WIDTH * C * LANES; ++i) number[i] = TANH(number[i]);
}

template <int WIDTH, int C> INLINE void tanh_back(const V (&y)[WIDTH][C], V (&delta)[WIDTH][C]) {
    for (int k = 0; k < WIDTH; ++k) {
        UNROLL for (int c = 0; c < C; ++c) delta[k][c] *= 1 - y[k][c] * y[k][c];
    }
}

template <int WIDTH, int C> INLINE void sigmoid(V (&y)[WIDTH][C]) {
    T* number = (T*)y;
    for (int i = 0; i < WIDTH * C * LANES; ++i) number[i] = 1 / (1 + EXP(-number[i]));
}

template <int WIDTH, int C> INLINE void sigmoid_back(const V (&y)[WIDTH][C], V (&delta)[WIDTH][C]) {
    for (int k = 0; k < WIDTH; ++k) {
        UNROLL for (int c = 0; c < C; ++c) delta[k][c] *= y[k][c] * (1 - y[k][c]);
    }
}

// Losses return their sum lane by lane, and the gradient by y but for the constant that RATE has.

template <int TAIL, int WIDTH, int C> INLINE V mse(const T* targets, const V (&y)[WIDTH][C], V (&delta)[WIDTH][C]) {
    V wanted[WIDTH][C], sum = {};
    load<TAIL>(targets, wanted);
    for (int k = 0; k < WIDTH; ++k) {
        UNROLL for (int c = 0; c < C; ++c) {
            V difference = y[k][c] - wanted[k][c];
            if (partial<TAIL, C>(c)) difference *= kept<TAIL>();
            sum += difference * difference;
            delta[k][c] = difference;
        }
    }
    return sum;
}

template <int TAIL, int WIDTH, int C>
INLINE V cross_entropy(const int64_t* targets, const V (&y)[WIDTH][C], V (&delta)[WIDTH][C]) {
    V chosen[1][C], largest[C], weight[C], wanted[C] = {}, total[C] = {}, sum = {};
    load<TAIL>(targets, chosen);
    for (int c = 0; c < C; ++c) {
        largest[c] = y[0][c];
        for (int k = 1; k < WIDTH; ++k) largest[c] = y[k][c] > largest[c] ? y[k][c] : largest[c];
        for (int k = 0; k < WIDTH; ++k) delta[k][c] = y[k][c] - largest[c];
        for (int k = 0; k < WIDTH; ++k) wanted[c] += chosen[0][c] == V{} + (T)k ? delta[k][c] : V{};
        weight[c] = partial<TAIL, C>(c) ? kept<TAIL>() : V{} + (T)1;
    }
    T* number = (T*)delta;
    for (int i = 0; i < WIDTH * C * LANES; ++i) number[i] = EXP(number[i]);
    for (int k = 0; k < WIDTH; ++k)
        for (int c = 0; c < C; ++c) total[c] += delta[k][c];
    for (int k = 0; k < WIDTH; ++k)
        for (int c = 0; c < C; ++c) {
            V onehot = chosen[0][c] == V{} + (T)k ? V{} + (T)1 : V{};
            delta[k][c] = (delta[k][c] / total[c] - onehot) * weight[c];
        }
    T* logarithm = (T*)total;
    for (int i = 0; i < C * LANES; ++i) logarithm[i] = LOG(logarithm[i]);
    for (int c = 0; c < C; ++c) sum += (total[c] - wanted[c]) * weight[c];
    return sum;
}

#if LANES > 1
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Index{__VA_ARGS__})
#endif

// Adds up the two halves of a that bit BIT of a lane's number tells apart, into the lanes without it; b's into the others.
template <int BIT, int... L> INLINE V folded(V a, V b, std::integer_sequence<int, L...>) {
    return SHUFFLE(a, b, (L & BIT ? LANES + L : L)...) + SHUFFLE(a, b, (L & BIT ? LANES + L - BIT : L + BIT)...);
}
#endif

// LANES vectors → the vector of their sums; N of them have been added up so far.
template <int N> INLINE V totals(const V* sums) {
    if constexpr (N == 1) {
        return sums[0];
    } else {
        V low = totals<N / 2>(sums), high = totals<N / 2>(sums + N / 2);
        return folded<N / 2>(low, high, std::make_integer_sequence<int, LANES>());
    }
}

// Updates the weights by the sums over all points and returns the mean loss. What lies after the weights takes part and
// is never read.
INLINE T descend(T* __restrict w, const V* sums) {
    V total;
    for (int i = 0; i < PADDED; i += LANES) {
        total = totals<LANES>(sums + i);
        *(Unaligned*)(w + i) -= RATE * total;
    }
    return ((T*)&total)[WEIGHTS % LANES] * MEAN;
}
