// The structs that kernels take, made from the Rust declarations by `BLESS=1 cargo test --test kernels`.
#pragma once

constexpr int GROUP = 4;

struct Count {
    unsigned n;
};
