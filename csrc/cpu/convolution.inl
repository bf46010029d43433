// A causal convolution of each channel with its own past, then SiLU.
//
// A unit is a strip of channels of one request, all its tokens: what stands before the step is read
// from the request's state, and the last inputs are left there.
namespace quire {
namespace {

constexpr int64_t kStripChannels = 512;  // rows of so many stay near for all taps
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

// One strip of channels of a request; `zeros` stand for what is before its first token.
template <class V>
QUIRE_INLINE void convolve(const quire_op &op, const Run &run, int64_t request, int64_t start,
                           int64_t count, const float *zeros) {
    const int64_t taps = op.recurrence->taps, past = taps - 1, cols = op.in[0].cols;
    const float *weights = op.vectors[0] + start;
    const float *bias = op.vectors[1] ? op.vectors[1] + start : zeros;
    for_each_segment(run, request, op.recurrence->state + start, [&](const Segment &segment) {
        // The input at place t of the step, or before it.
        const auto input = [&](int64_t t) -> const float * {
            if (t >= segment.first) return run.row(op.in[0], t) + start;
            return segment.before ? segment.before + (past + t - segment.first) * cols : zeros;
        };
        const float *line[kMostTaps];  // what the taps meet
        for (int64_t t = segment.first; t < segment.end; t++) {
            for (int64_t j = 0; j < taps; j++) line[j] = input(t - past + j);
            float *to = run.row(op.out[0], t) + start;
            for_each_vector<V>(count, [&](auto load, auto store) {
                auto sum = load(bias);
                for (int64_t j = 0; j < taps; j++) {
                    sum = V::fma(load(weights + j * cols), load(line[j]), sum);
                }
                store(to, times_sigmoid<V>(sum, sum));
            });
        }
        for (int64_t j = 0; j < past; j++) {  // in place: a row is read before it is written
            const float *from = input(segment.end - past + j);
            for_each_vector<V>(
                count, [&](auto load, auto store) { store(segment.after + j * cols, load(from)); });
        }
    });
}

int64_t convolution_units(const quire_op &op, const Run &run) {
    return run.step->num_requests * ceil_div(op.in[0].cols, kStripChannels);
}

template <class V>
void convolution(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    const int64_t cols = op.in[0].cols, strips = ceil_div(cols, kStripChannels);
    float *zeros = reinterpret_cast<float *>(scratch);
    for (int64_t i = 0; i < kStripChannels; i++) zeros[i] = 0.0f;
    for (int64_t unit = first; unit < last; unit++) {
        const int64_t start = unit % strips * kStripChannels;
        convolve<V>(op, run, unit / strips, start, smaller(kStripChannels, cols - start), zeros);
    }
}

}  // namespace
}  // namespace quire
