// The exponential function on vectors, within 2 units in the last place over the whole range.
//
// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; exp(r) by a polynomial (Cephes).
// Minus infinity gives 0, plus infinity infinity, NaN stays NaN.
namespace quire {
namespace {

template <class V>
QUIRE_INLINE typename V::Float vector_exp(typename V::Float x) {
    using Float = typename V::Float;
    x = V::max(V::broadcast(-105.0f), V::min(V::broadcast(90.0f), x));
    const Float n = V::round(V::mul(x, V::broadcast(1.44269504088896341f)));
    Float r = V::sub(x, V::mul(n, V::broadcast(0.693359375f)));
    r = V::sub(r, V::mul(n, V::broadcast(-2.12194440e-4f)));
    Float y = V::broadcast(1.9875691500e-4f);
    y = V::fma(y, r, V::broadcast(1.3981999507e-3f));
    y = V::fma(y, r, V::broadcast(8.3334519073e-3f));
    y = V::fma(y, r, V::broadcast(4.1665795894e-2f));
    y = V::fma(y, r, V::broadcast(1.6666665459e-1f));
    y = V::fma(y, r, V::broadcast(5.0000001201e-1f));
    y = V::add(V::fma(y, V::mul(r, r), r), V::broadcast(1.0f));
    return V::times_power_of_two(y, n);
}

}  // namespace
}  // namespace quire
