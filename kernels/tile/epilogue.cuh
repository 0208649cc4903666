// What happens to a sum before it is written.
#pragma once
#include "common.cuh"

/// Adds the bias of a column (where there is a bias) and applies ReLU (where asked to). NaN stays NaN.
struct Act {
    const float *bias;
    int columns, relu;
    __device__ float operator()(int column, float v) const {
        if (bias && column < columns) v += __ldg(bias + column);
        return relu && v < 0 ? 0 : v;
    }
    __device__ float4 operator()(int column, float4 v) const {
        return {(*this)(column, v.x), (*this)(column + 1, v.y), (*this)(column + 2, v.z), (*this)(column + 3, v.w)};
    }
};
