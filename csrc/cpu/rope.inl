// Rotary position embedding and the write of keys and values into their blocks.
namespace quire {
namespace {

// Rotates the first `dims` numbers of one head by the angles [cos | sin]; out may be x.
template <class V>
QUIRE_INLINE void rotate_head(const float *x, const float *angles, const quire_op &op,
                              int64_t head_dim, float *out) {
    const int64_t dims = op.rope_dims, half = dims / 2;
    const float *cosines = angles, *sines = angles + half;
    if (op.pairing == 0) {
        for_each_vector<V>(half, [&](auto load, auto store) {
            const auto a = load(x), b = load(x + half), c = load(cosines), s = load(sines);
            store(out, V::sub(V::mul(a, c), V::mul(b, s)));
            store(out + half, V::add(V::mul(b, c), V::mul(a, s)));
        });
    } else {
        for (int64_t i = 0; i < half; i++) {
            const float a = x[2 * i], b = x[2 * i + 1];
            out[2 * i] = a * cosines[i] - b * sines[i];
            out[2 * i + 1] = b * cosines[i] + a * sines[i];
        }
    }
    if (out != x) {
        for_each_vector<V>(head_dim - dims,
                           [&](auto load, auto store) { store(out + dims, load(x + dims)); });
    }
}

template <class V>
QUIRE_INLINE void rotate_heads(const float *x, const float *angles, const quire_op &op,
                               int64_t heads, float *out) {
    for (int64_t h = 0; h < heads; h++) {
        rotate_head<V>(x + h * op.head_dim, angles, op, op.head_dim, out + h * op.head_dim);
    }
}

template <class V>
void rope(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        rotate_heads<V>(run.row(op.in[0], t), run.row(op.in[1], t), op, op.heads,
                        run.row(op.out[0], t));
    }
}

// The request that owns token t.
QUIRE_INLINE int64_t request_of(const quire_step &step, int64_t t) {
    int64_t low = 0, high = step.num_requests;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        (step.query_start[middle] <= t ? low : high) = middle;
    }
    return low;
}

template <class V, class Cache>
QUIRE_INLINE void write_numbers(const HeadOfBlock<Cache> &head, int64_t offset, int64_t B,
                                int64_t D, const float *key, const float *value) {
    Cache *to_keys = head.keys + offset, *to_values = head.values + offset * D;
    for (int64_t i = 0; i < D; i += V::kWidth) {
        const int64_t n = smaller(D - i, V::kWidth);
        Cache lanes[V::kWidth];
        V::store(lanes, n < V::kWidth ? V::load_partial(key + i, n) : V::load(key + i));
        for (int64_t l = 0; l < n; l++) to_keys[(i + l) * B] = lanes[l];
    }
    for_each_vector<V>(D, [&](auto load, auto store) { store(to_values, load(value)); });
}

// Up to kWidth codes of a vector, zeros behind them, to its elements from number i on.
template <class Cache>
QUIRE_INLINE void put_value(const uint8_t *codes, int64_t n, int64_t i, Cache *to) {
    if constexpr (KvFormat<Cache>::kNumbersPerValue == 1) {
        memcpy(to + i, codes, n);
    } else {
        for (int64_t d = 0; d < n; d += 2) to[(i + d) / 2].pair = codes[d] | codes[d + 1] << 4;
    }
}
template <class Cache>
QUIRE_INLINE void put_key(const uint8_t *codes, int64_t n, int64_t i, int64_t B, Cache *to) {
    using Format = KvFormat<Cache>;
    if constexpr (!Format::kPairs) {
        for (int64_t d = 0; d < n; d++) memcpy(to + (i + d) * B, codes + d, 1);
    } else if constexpr (Format::kKeyElements == 2) {
        for (int64_t d = 0; d < n; d += 2) memcpy(to + (i + d) * B, codes + d, 2);
    } else {
        for (int64_t d = 0; d < n; d += 2) to[(i + d) / 2 * B].pair = codes[d] | codes[d + 1] << 4;
    }
}

template <class V, class Cache>
QUIRE_INLINE void write_codes(const HeadOfBlock<Cache> &head, int64_t offset, int64_t B, int64_t D,
                              const float *key, const float *value) {
    const VectorCodes<V, Cache> of_key(key, D), of_value(value, D);
    head.key_scales[offset] = of_key.scale;
    head.value_scales[offset] = of_value.scale;
    if constexpr (KvFormat<Cache>::kMinimums) {
        head.key_scales[offset + head.minimums] = of_key.minimum;
        head.value_scales[offset + head.minimums] = of_value.minimum;
    }
    Cache *to_key = head.keys + offset * KvFormat<Cache>::kKeyElements;
    Cache *to_value = head.values + offset * value_elements<Cache>(D);
    for (int64_t i = 0; i < D; i += V::kWidth) {
        const int64_t n = smaller(D - i, V::kWidth);
        uint8_t codes[V::kWidth] = {};
        of_value.make(value + i, n, codes);
        put_value(codes, n, i, to_value);
        of_key.make(key + i, n, codes);
        put_key(codes, n, i, B, to_key);
    }
}

template <class V, class Cache>
QUIRE_INLINE void write_token_as(const quire_op &op, const Run &run, int64_t t, const float *keys,
                                 const float *values) {
    const quire_program &program = *run.program;
    const quire_step &step = *run.step;
    const int64_t B = program.block_tokens, D = op.head_dim, K = op.kv_heads;
    const int64_t position = step.positions[t], offset = position % B;
    const int32_t *table = step.block_tables + request_of(step, t) * step.block_table_stride;
    uint8_t *block = program.kv + program.kv_layer_offset[op.layer] +
                     table[position / B] * program.kv_block_bytes[op.layer];
    for (int64_t j = 0; j < K; j++) {
        const HeadOfBlock<Cache> head = head_of_block<Cache>(block, B, K, D, j);
        if constexpr (KvFormat<Cache>::kScales) {
            write_codes<V>(head, offset, B, D, keys + j * D, values + j * D);
        } else {
            write_numbers<V>(head, offset, B, D, keys + j * D, values + j * D);
        }
    }
}

template <class V>
QUIRE_INLINE void write_token(const quire_op &op, const Run &run, int64_t t, const float *keys,
                              const float *values) {
    switch (run.program->kv_dtype) {
        case QUIRE_KV_F32:
            return write_token_as<V, float>(op, run, t, keys, values);
        case QUIRE_KV_F16:
            return write_token_as<V, Half>(op, run, t, keys, values);
        case QUIRE_KV_BF16:
            return write_token_as<V, BFloat16>(op, run, t, keys, values);
        case QUIRE_KV_INT8:
            return write_token_as<V, Code8>(op, run, t, keys, values);
        case QUIRE_KV_FLOAT8:
            return write_token_as<V, Float8>(op, run, t, keys, values);
        default:
            return write_token_as<V, Code4>(op, run, t, keys, values);
    }
}

template <class V>
void kv_write(const quire_op &op, const Run &run, char *, int64_t first, int64_t last) {
    for (int64_t t = first; t < last; t++) {
        write_token<V>(op, run, t, run.row(op.in[0], t), run.row(op.in[1], t));
    }
}

template <class V>
void rope_kv_write(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    float *keys = reinterpret_cast<float *>(scratch);
    for (int64_t t = first; t < last; t++) {
        const float *angles = run.row(op.in[3], t);
        rotate_heads<V>(run.row(op.in[0], t), angles, op, op.heads, run.row(op.out[0], t));
        rotate_heads<V>(run.row(op.in[1], t), angles, op, op.kv_heads, keys);
        write_token<V>(op, run, t, keys, run.row(op.in[2], t));
    }
}

}  // namespace
}  // namespace quire
