// The structs that kernels take, made from the Rust declarations by `BLESS=1 cargo test --test kernels`.
#pragma once

constexpr int GROUP = 4;

struct Divisor {
    unsigned by;
    unsigned factor;
    unsigned shift;
};

struct Channels {
    unsigned n;
    Divisor c;
};

struct Count {
    unsigned n;
};

struct Pointwise {
    double p;
    double q;
    unsigned long long n;
};

struct Scalar {
    unsigned n;
    float by;
};
