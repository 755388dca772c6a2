kernel void add(global const int *a, global const int *b, global int *c) {
    size_t i = get_global_id(0);
    c[i] = a[i] + b[i];
}

kernel void scale(global float *x, float k) {
    size_t i = get_global_id(0);
    x[i] = k * x[i];
}

kernel void bump(global uint *x) {
    x[get_global_id(0)] += 1;
}

// c = a * b, square matrices of small whole numbers, so that float sums are exact.
kernel void multiply(global const float *a, global const float *b, global float *c, int n) {
    int column = get_global_id(0), row = get_global_id(1);
    float sum = 0.0f;
    for (int k = 0; k < n; ++k) sum += a[row * n + k] * b[k * n + column];
    c[row * n + column] = sum;
}

// One partial sum per work-group, through local memory.
kernel void reduce(global const uint *in, global uint *out, local uint *scratch) {
    size_t l = get_local_id(0);
    scratch[l] = in[get_global_id(0)];
    for (size_t half_ = get_local_size(0) / 2; half_ > 0; half_ /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (l < half_) scratch[l] += scratch[l + half_];
    }
    if (l == 0) out[get_group_id(0)] = scratch[0];
}

typedef struct { int a; float b; char c; } pair_t;

// An argument by value whose size only the compiler knows.
kernel void unpack(global float *out, pair_t pair) {
    out[0] = (float)pair.a;
    out[1] = pair.b;
    out[2] = (float)pair.c;
}

kernel void where(global uint *out, uint width) {
    size_t at = (get_global_id(1) - get_global_offset(1)) * width + get_global_id(0) - get_global_offset(0);
    out[at] = (uint)(get_global_id(0) * 1000 + get_global_id(1));
}
