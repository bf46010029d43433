// The exponential function on vectors, within 2 units in the last place.
//
// exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; exp(r) by a polynomial (Cephes).
// Results below 2^-126.5 are 0 and those above 2^127.5 infinite; NaN stays NaN.
namespace quire {
namespace {

template <class V>
QUIRE_INLINE typename V::Float vector_exp(typename V::Float x) {
    using Float = typename V::Float;
    x = V::max(V::broadcast(-88.0f), V::min(V::broadcast(88.72f), x));
    const Float n = V::round(V::mul(x, V::broadcast(1.44269504088896341f)));
    Float r = V::fma(n, V::broadcast(-0.693359375f), x);
    r = V::fma(n, V::broadcast(2.12194440e-4f), r);
    Float y = V::broadcast(1.9875691500e-4f);
    y = V::fma(y, r, V::broadcast(1.3981999507e-3f));
    y = V::fma(y, r, V::broadcast(8.3334519073e-3f));
    y = V::fma(y, r, V::broadcast(4.1665795894e-2f));
    y = V::fma(y, r, V::broadcast(1.6666665459e-1f));
    y = V::fma(y, r, V::broadcast(5.0000001201e-1f));
    y = V::add(V::fma(y, V::mul(r, r), r), V::broadcast(1.0f));
    return V::mul(y, V::power_of_two(n));
}

// 2^x for x <= 0: 2^round(x) times a polynomial of degree 6 (minimax of the relative error, 2e-9).
// 1 at 0; results below 2^-126.5 are 0; NaN stays NaN.
template <class V>
QUIRE_INLINE typename V::Float vector_exp2(typename V::Float x) {
    using Float = typename V::Float;
    x = V::max(V::broadcast(-127.0f), x);
    const Float n = V::round(x), r = V::sub(x, n);
    Float y = V::broadcast(1.53533619e-4f);
    y = V::fma(y, r, V::broadcast(1.33988750e-3f));
    y = V::fma(y, r, V::broadcast(9.61843692e-3f));
    y = V::fma(y, r, V::broadcast(5.55033237e-2f));
    y = V::fma(y, r, V::broadcast(2.40226477e-1f));
    y = V::fma(y, r, V::broadcast(6.93147182e-1f));
    y = V::fma(y, r, V::broadcast(1.0f));
    return V::mul(y, V::power_of_two(n));
}

}  // namespace
}  // namespace quire
