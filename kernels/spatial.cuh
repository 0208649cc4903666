// What kernels over the pixels of [N,H,W,C] share. A thread owns VECTOR channels of one pixel.
#pragma once
#include "common.cuh"

#ifndef VECTOR
#error "-DVECTOR=: channels of a thread"
#endif

/// The channels of a thread, to compute with.
typedef Pack<VECTOR> Lanes;

/// The same as memory holds them; tensors are indexed in these.
struct Cell : Neighbours<VECTOR, Real> {
    __device__ operator Lanes() const { return Lanes::load(at); }
    __device__ void operator=(const Lanes &x) { x.store(at); }
};

/// Channels c of pixel (row, column) of image n.
struct Place {
    u32 n, row, column, c;
};

/// Where element i of images of `size` rows and columns lies.
__device__ inline Place place(u32 i, Divisor c, const Divisor (&size)[2]) {
    u32 pixel = i / c, line = pixel / size[1];
    return {line / size[0], line % size[0], pixel % size[1], i % c};
}

/// The same channels of the first pixel of the same image, in a tensor with images of `size` rows and columns. The next
/// pixel is c.by further. 32 bits count the cells of an image, but not those of all.
__device__ inline const Cell *image(const Cell *x, Place at, Divisor c, const Divisor (&size)[2]) {
    return x + (u64)at.n * (size[0].by * size[1].by * c.by) + at.c;
}

/// Rows or columns, the end excluded.
struct Span {
    u32 from, to;
};
