// A loop over a row, vector by vector.
namespace quire {
namespace {

// Calls body(load, store) for each vector of `cols` numbers; both take the row's first address.
template <class V, class Body>
QUIRE_INLINE void for_each_vector(int64_t cols, Body body) {
    int64_t i = 0;
    for (; i + V::kWidth <= cols; i += V::kWidth) {
        body([&](const auto *p) { return V::load(p + i); },
             [&](auto *p, typename V::Float a) { V::store(p + i, a); });
    }
    if (i < cols) {
        body([&](const auto *p) { return V::load_partial(p + i, cols - i); },
             [&](auto *p, typename V::Float a) { V::store_partial(p + i, a, cols - i); });
    }
}

}  // namespace
}  // namespace quire
