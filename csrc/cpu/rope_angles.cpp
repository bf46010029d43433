// The cosines and sines of rotary embedding, computed in float64 by the system's library.
#include "rope_angles.h"

#include <math.h>

namespace quire {

constexpr int64_t kAxes = 3;

void rope_angles(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    const int64_t half = op.rope_dims / 2;
    for (int64_t t = first; t < last; t++) {
        const float *frequencies = op.vectors[0] + run.step->rope_rows[t] * (half + 1);
        const float position = float(run.step->positions[t]);
        const int32_t *axes = op.order ? run.step->axis_positions : nullptr;
        float *cosines = run.row(op.out[0], t), *sines = cosines + half;
        const float scale = frequencies[half];
        for (int64_t i = 0; i < half; i++) {
            const float turned_by = axes ? float(axes[t * kAxes + op.order[i]]) : position;
            const double angle = double(turned_by * frequencies[i]);
            cosines[i] = float(cos(angle)) * scale;
            sines[i] = float(sin(angle)) * scale;
        }
    }
}

}  // namespace quire
