// A program as many are, which nobody has built: SALT makes each another one.
constant uint salt = SALT;

kernel void salted(global uint *out) {
    out[get_global_id(0)] = salt ^ (uint)get_global_id(0);
}

kernel void scale(global float *x, float factor) {
    size_t i = get_global_id(0);
    x[i] = x[i] * factor + (float)(salt & 255u);
}

kernel void multiply(global const float *a, global const float *b, global float *c, uint n) {
    local float left[8][8], right[8][8];
    uint row = get_local_id(1), column = get_local_id(0);
    float sum = 0.0f;
    for (uint tile = 0; tile < n; tile += 8) {
        left[row][column] = a[get_global_id(1) * n + tile + column];
        right[row][column] = b[(tile + row) * n + get_global_id(0)];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint k = 0; k < 8; k++) sum += left[row][k] * right[k][column];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    c[get_global_id(1) * n + get_global_id(0)] = sum;
}

kernel void histogram(global const uchar *pixels, uint count, global uint *bins) {
    local uint part[256];
    for (uint i = get_local_id(0); i < 256; i += get_local_size(0)) part[i] = 0;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = get_global_id(0); i < count; i += get_global_size(0)) atomic_inc(&part[pixels[i]]);
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = get_local_id(0); i < 256; i += get_local_size(0)) atomic_add(&bins[i], part[i]);
}

kernel void soften(global const float4 *from, global float4 *to, uint width, uint height) {
    int x = get_global_id(0), y = get_global_id(1);
    float4 sum = (float4)(0.0f);
    for (int dy = -2; dy <= 2; dy++) {
        for (int dx = -2; dx <= 2; dx++) {
            int cx = clamp(x + dx, 0, (int)width - 1), cy = clamp(y + dy, 0, (int)height - 1);
            sum += from[cy * width + cx] * exp(-0.3f * (float)(dx * dx + dy * dy));
        }
    }
    to[y * width + x] = sum;
}
