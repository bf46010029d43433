// Whole-number arithmetic that every kernel file uses.
namespace quire {
namespace {

QUIRE_INLINE int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
QUIRE_INLINE int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}
QUIRE_INLINE int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

}  // namespace
}  // namespace quire
