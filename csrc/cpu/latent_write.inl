// The write of latents and of rotated key parts into their blocks.
namespace quire {
namespace {

// Stores n numbers from `to` on, and their scale if they become codes.
template <class V, class Cache>
QUIRE_INLINE void write_part(const float *x, int64_t n, Cache *to, float *scale) {
    if constexpr (KvFormat<Cache>::kScales) {
        const float most = finite_max<V>(x, n);
        *scale = most / 127.0f;
        to_codes<V>(x, n, most, 127.0f, reinterpret_cast<int8_t *>(to));
    } else {
        for_each_vector<V>(n, [&](auto load, auto store) { store(to, load(x)); });
    }
}

template <class V, class Cache>
void latent_write_as(const quire_op &op, const Run &run, char *scratch, int64_t first,
                     int64_t last) {
    const quire_program &program = *run.program;
    const quire_step &step = *run.step;
    const int64_t B = program.block_tokens, C = op.head_dim, P = op.rope_dims;
    float *rotated = reinterpret_cast<float *>(scratch);
    for (int64_t t = first; t < last; t++) {
        const int64_t position = step.positions[t], offset = position % B;
        const int32_t *table = step.block_tables + request_of(step, t) * step.block_table_stride;
        const LatentBlock<Cache> block =
            latent_block<Cache>(program.kv + program.kv_layer_offset[op.layer] +
                                    table[position / B] * program.kv_block_bytes[op.layer],
                                B, C + P);
        Cache *to = block.rows + offset * (C + P);
        rotate_head<V>(run.row(op.in[1], t), run.row(op.in[2], t), op, P, rotated);
        write_part<V>(run.row(op.in[0], t), C, to, block.latent_scales + offset);
        write_part<V>(rotated, P, to + C, block.rope_scales + offset);
    }
}

template <class V>
void latent_write(const quire_op &op, const Run &run, char *scratch, int64_t first, int64_t last) {
    switch (run.program->kv_dtype) {
        case QUIRE_KV_F32:
            return latent_write_as<V, float>(op, run, scratch, first, last);
        case QUIRE_KV_F16:
            return latent_write_as<V, Half>(op, run, scratch, first, last);
        case QUIRE_KV_BF16:
            return latent_write_as<V, BFloat16>(op, run, scratch, first, last);
        default:
            return latent_write_as<V, Code8>(op, run, scratch, first, last);
    }
}

}  // namespace
}  // namespace quire
