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

struct ColumnSum {
    int rows;
    int n;
    int part;
};

struct Conv {
    int n;
    int h;
    int w;
    int c;
    int k;
    int p;
    int q;
    int r;
    int s;
    int stride_h;
    int stride_w;
    int pad_h;
    int pad_w;
    int dilation_h;
    int dilation_w;
    int tap_step_h;
    int tap_step_w;
    int gc;
    int gk;
    int part;
    int bias;
    int relu;
};

struct Count {
    unsigned n;
};

struct Dense {
    int rows;
    int inputs;
    int outputs;
    int bias;
    int relu;
};

struct Gemm {
    int m;
    int n;
    int depth;
    int part;
};

struct Parts {
    unsigned n;
    unsigned parts;
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
