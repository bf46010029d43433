// A causal convolution of each channel with its own past, then SiLU.
//
// A unit is a strip of channels of one request, all its tokens: what stands before the step is read
// from the request's state, and the last inputs are left there.
namespace quire {
namespace {

constexpr int64_t kStripChannels = 64;
constexpr int64_t kMostTaps = 8;

// Tokens first .. end - 1 of one request, and the state at some offset of the records that they follow
// on (null: none) and leave.
struct Segment {
    int64_t first, end;
    const float *before;
    float *after;
};

// Calls body with the one or two segments of a request, in order.
template <class Body>
QUIRE_INLINE void for_each_segment(const Run &run, int64_t request, int64_t offset, Body body) {
    const quire_program &program = *run.program;
    const quire_state_use &use = run.step->state_uses[request];
    const auto record = [&](int64_t i) {
        return program.states + i * program.state_floats + offset;
    };
    const int64_t first = run.step->query_start[request];
    const int64_t end = run.step->query_start[request + 1];
    const float *before = use.read < 0 ? nullptr : record(use.read);
    if (use.mark > 0) {
        body(Segment{first, first + use.mark, before, record(use.kept)});
        before = record(use.kept);
    }
    body(Segment{first + use.mark, end, before, record(use.write)});
}

// The channels from `c` on, as many as load and store take.
template <class V, class Load, class Store>
QUIRE_INLINE void convolve(const quire_op &op, const Run &run, int64_t request, int64_t c,
                           Load load, Store store) {
    using Float = typename V::Float;
    const int64_t taps = op.recurrence->taps, past = taps - 1, cols = op.in[0].cols;
    Float weights[kMostTaps], line[kMostTaps];  // line: the inputs that the taps meet
    for (int64_t j = 0; j < taps; j++) weights[j] = load(op.vectors[0] + j * cols + c);
    const Float bias = op.vectors[1] ? load(op.vectors[1] + c) : V::zero();
    for_each_segment(run, request, op.recurrence->state + c, [&](const Segment &segment) {
        const float *before = segment.before;
        for (int64_t j = 0; j < past; j++) line[j] = before ? load(before + j * cols) : V::zero();
        for (int64_t t = segment.first; t < segment.end; t++) {
            line[past] = load(run.row(op.in[0], t) + c);
            Float sum = bias;
            for (int64_t j = 0; j < taps; j++) sum = V::fma(weights[j], line[j], sum);
            store(run.row(op.out[0], t) + c, times_sigmoid<V>(sum, sum));
            for (int64_t j = 0; j < past; j++) line[j] = line[j + 1];
        }
        for (int64_t j = 0; j < past; j++) store(segment.after + j * cols, line[j]);
    });
}

int64_t convolution_units(const quire_op &op, const Run &run) {
    return run.step->num_requests * ceil_div(op.in[0].cols, kStripChannels);
}

template <class V>
void convolution(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    const int64_t cols = op.in[0].cols, strips = ceil_div(cols, kStripChannels);
    for (int64_t unit = first; unit < last; unit++) {
        const int64_t request = unit / strips, start = unit % strips * kStripChannels;
        const int64_t end = smaller(start + kStripChannels, cols);
        int64_t c = start;
        for (; c + V::kWidth <= end; c += V::kWidth) {
            convolve<V>(
                op, run, request, c, [](const float *p) { return V::load(p); },
                [](float *p, typename V::Float a) { V::store(p, a); });
        }
        if (c < end) {
            const int64_t n = end - c;
            convolve<V>(
                op, run, request, c, [=](const float *p) { return V::load_partial(p, n); },
                [=](float *p, typename V::Float a) { V::store_partial(p, a, n); });
        }
    }
}

}  // namespace
}  // namespace quire
