// The structs that kernels take, made from the Rust declarations by `BLESS=1 cargo test --test kernels`.
#pragma once

constexpr int GROUP = 4;

struct Divisor {
    unsigned by;
    unsigned factor;
    unsigned shift;
};

struct Augmentation {
    unsigned pixels;
    Divisor side;
    unsigned stream;
    float rotation;
    float shift[2];
    float shear;
    float zoom;
    unsigned flip[2];
};

struct Beside {
    unsigned width;
    unsigned from[4];
    unsigned c[4];
};

struct Boxes {
    int n;
    int p;
    int q;
    int c;
    int k;
    int r;
    int s;
    int first_row;
    int first_column;
    int step;
    int down;
    int across;
    int bias;
    int relu;
    int mask;
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

struct Columns {
    unsigned n;
    Divisor width;
    unsigned x_width;
    unsigned from;
    unsigned y_width;
    unsigned to;
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
    int mask;
    int pool;
    int index;
};

struct Count {
    unsigned n;
};

struct Dense {
    int rows;
    int inputs;
    int outputs;
    int to;
    int bias;
    int relu;
    int draw;
    float keep;
    unsigned streams[4];
};

struct Descent {
    unsigned keras;
    unsigned nesterov;
    float dampening;
    unsigned scaled;
    unsigned copies;
    unsigned n[24];
    unsigned from[24];
    unsigned end[24];
    float lambda[24];
};

struct Draws {
    unsigned n;
    float keep;
    unsigned streams[4];
};

struct Entropy {
    double smoothing;
    unsigned rows;
    unsigned c;
    unsigned logits;
    unsigned mean;
    unsigned soft;
    unsigned weighted;
    unsigned ignores;
    int ignore;
};

struct Folding {
    double eps;
    unsigned row;
    unsigned bias;
};

struct Gemm {
    int m;
    int n;
    int depth;
    int part;
    int bias;
    int relu;
    int draw;
    int wide;
    int mask;
    float keep;
    unsigned streams[4];
};

struct Learning {
    Gemm product;
    Descent step;
};

struct Matrix {
    unsigned rows;
    unsigned columns;
    Divisor across;
    Divisor tiles;
};

struct MaxWindow {
    unsigned n;
    Divisor c;
    Divisor x[2];
    Divisor y[2];
    unsigned size[2];
    Divisor stride[2];
    unsigned pad[2];
    unsigned dilation[2];
};

struct MeanWindow {
    unsigned n;
    Divisor c;
    Divisor x[2];
    Divisor y[2];
    unsigned adaptive;
    unsigned size[2];
    Divisor stride[2];
    unsigned pad[4];
    unsigned count_pad;
};

struct Mixing {
    unsigned pixels;
    float by[9];
    float add[3];
};

struct Moments {
    unsigned n;
    unsigned from;
    float beta1;
    float rest1;
    float beta2;
    float rest2;
    float eps;
    unsigned penalty;
    unsigned uncorrected;
    unsigned amsgrad;
    unsigned scaled;
};

struct Normalization {
    double eps;
    unsigned pixels;
    Divisor c;
    Divisor hw;
    unsigned blocks;
    unsigned relu;
    unsigned through;
};

struct Pairs {
    unsigned pairs;
    Divisor d;
};

struct Parts {
    unsigned n;
    unsigned more;
    unsigned parts;
};

struct Picking {
    unsigned units;
    unsigned rows;
};

struct Pointwise {
    double p;
    double q;
    unsigned long long n;
};

struct Preprocessing {
    unsigned n;
    unsigned bgr[4];
    float scale[4];
    float mean[12];
    float std[12];
};

struct Quads {
    unsigned n;
    Divisor c;
    Divisor q;
};

struct Resampling {
    unsigned n;
    Divisor c;
    Divisor x[2];
    Divisor y[2];
    unsigned scale[2];
    int shift[2];
    Divisor whole[2];
};

struct Response {
    unsigned n;
    Divisor c;
    int before;
    int after;
    float k;
    float alpha;
    float beta;
    float factor;
};

struct Rows {
    unsigned c;
};

struct Running {
    double momentum;
    unsigned c;
    unsigned images;
    unsigned pixels;
    unsigned unbiased;
};

struct Scalar {
    unsigned n;
    float by;
};

struct Square {
    unsigned side;
    unsigned pixels;
    unsigned rgb;
};

struct SquaredError {
    unsigned rows;
    Divisor d;
    unsigned mean;
    unsigned scaled;
};

struct Squares {
    unsigned count;
    unsigned n[32];
    unsigned end[32];
    float lambda[32];
};

struct Turns {
    unsigned n;
    unsigned turns;
};
