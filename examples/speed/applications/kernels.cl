// c = a b for square matrices, by tiles.
#define TILE 16
kernel void multiply(global const float *a, global const float *b, global float *c, uint n) {
    local float left[TILE][TILE], right[TILE][TILE];
    uint column = get_local_id(0), row = get_local_id(1);
    float sum = 0.0f;
    for (uint tile = 0; tile < n; tile += TILE) {
        left[row][column] = a[get_global_id(1) * n + tile + column];
        right[row][column] = b[(tile + row) * n + get_global_id(0)];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint k = 0; k < TILE; k++) sum += left[row][k] * right[k][column];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    c[get_global_id(1) * n + get_global_id(0)] = sum;
}

// One step of heat on a plate whose edge keeps its temperature.
kernel void spread(global const float *from, global float *to) {
    size_t x = get_global_id(0), y = get_global_id(1), width = get_global_size(0), height = get_global_size(1);
    size_t i = y * width + x;
    if (x == 0 || y == 0 || x == width - 1 || y == height - 1) {
        to[i] = from[i];
        return;
    }
    to[i] = from[i] + 0.2f * (from[i - 1] + from[i + 1] + from[i - width] + from[i + width] - 4.0f * from[i]);
}

// The sum of what each work-group has of the elements.
kernel void sum(global const uint *from, uint count, global uint *sums, local uint *part) {
    uint sum = 0;
    for (size_t i = get_global_id(0); i < count; i += get_global_size(0)) sum += from[i] * (from[i] ^ 0x5a5a5a5au);
    part[get_local_id(0)] = sum;
    for (size_t apart = get_local_size(0) / 2; apart > 0; apart /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (get_local_id(0) < apart) part[get_local_id(0)] += part[get_local_id(0) + apart];
    }
    if (get_local_id(0) == 0) sums[get_group_id(0)] = part[0];
}

kernel void add_up(global uint *sums, uint count) {
    for (uint i = 1; i < count; i++) sums[0] += sums[i];
}

// One pass of Stockham's transform: pairs that are half of all apart become neighbours in blocks of `block`.
kernel void transform(global const float2 *from, global float2 *to, uint block) {
    size_t i = get_global_id(0), apart = get_global_size(0), k = i & (block - 1);
    float2 a = from[i], b = from[i + apart];
    float cosine, sine = sincos(-M_PI_F * (float)k / (float)block, &cosine);
    float2 turned = (float2)(b.x * cosine - b.y * sine, b.x * sine + b.y * cosine);
    size_t out = ((i - k) << 1) + k;
    to[out] = a + turned;
    to[out + block] = a - turned;
}

// Bodies that attract each other: x, y, z and mass.
kernel void attract(global const float4 *from, global float4 *to, global float4 *speeds, float step) {
    size_t i = get_global_id(0), count = get_global_size(0);
    float4 here = from[i];
    float3 pull = (float3)(0.0f);
    for (size_t j = 0; j < count; j++) {
        float4 there = from[j];
        float3 way = there.xyz - here.xyz;
        float inverse = rsqrt(dot(way, way) + 0.01f);
        pull += way * (there.w * inverse * inverse * inverse);
    }
    float4 speed = speeds[i];
    speed.xyz += pull * step;
    speeds[i] = speed;
    to[i] = (float4)(here.xyz + speed.xyz * step, here.w);
}

constant sampler_t nearest = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP_TO_EDGE | CLK_FILTER_NEAREST;

// The mean of five pixels in a direction.
kernel void soften(read_only image2d_t from, write_only image2d_t to, int dx, int dy) {
    int2 here = (int2)(get_global_id(0), get_global_id(1));
    uint4 sum = (uint4)(2);
    for (int i = -2; i <= 2; i++) sum += read_imageui(from, nearest, here + (int2)(dx * i, dy * i));
    write_imageui(to, here, sum / 5);
}

kernel void sharpen(read_only image2d_t from, write_only image2d_t to) {
    int2 here = (int2)(get_global_id(0), get_global_id(1));
    int4 sum = 5 * convert_int4(read_imageui(from, nearest, here));
    sum -= convert_int4(read_imageui(from, nearest, here + (int2)(-1, 0)));
    sum -= convert_int4(read_imageui(from, nearest, here + (int2)(1, 0)));
    sum -= convert_int4(read_imageui(from, nearest, here + (int2)(0, -1)));
    sum -= convert_int4(read_imageui(from, nearest, here + (int2)(0, 1)));
    write_imageui(to, here, convert_uint4(clamp(sum, 0, 255)));
}

kernel void invert(read_only image2d_t from, write_only image2d_t to) {
    int2 here = (int2)(get_global_id(0), get_global_id(1));
    write_imageui(to, here, 255 - read_imageui(from, nearest, here));
}

// A network of one hidden layer: hidden = max(0, input w1), output = softmax(hidden w2).
kernel void forward_hidden(global const float *input, global const float *w1, global float *hidden, uint inputs) {
    size_t j = get_global_id(0), sample = get_global_id(1), width = get_global_size(0);
    float sum = 0.0f;
    for (uint i = 0; i < inputs; i++) sum += input[sample * inputs + i] * w1[i * width + j];
    hidden[sample * width + j] = max(0.0f, sum);
}

// What the output is off, and with it the loss of each sample.
kernel void judge(global const float *hidden, global const float *w2, global const uint *labels, global float *off,
                  global float *losses, uint width, uint outputs) {
    size_t sample = get_global_id(0);
    global float *row = off + sample * outputs;
    float greatest = -INFINITY, sum = 0.0f;
    for (uint k = 0; k < outputs; k++) {
        float value = 0.0f;
        for (uint j = 0; j < width; j++) value += hidden[sample * width + j] * w2[j * outputs + k];
        row[k] = value;
        greatest = max(greatest, value);
    }
    for (uint k = 0; k < outputs; k++) sum += row[k] = exp(row[k] - greatest);
    uint label = labels[sample];
    losses[sample] = -log(row[label] / sum);
    for (uint k = 0; k < outputs; k++) row[k] = row[k] / sum - (k == label ? 1.0f : 0.0f);
}

kernel void blame(global const float *off, global const float *w2, global const float *hidden, global float *blamed,
                  uint outputs) {
    size_t j = get_global_id(0), sample = get_global_id(1), i = sample * get_global_size(0) + j;
    float sum = 0.0f;
    for (uint k = 0; k < outputs; k++) sum += off[sample * outputs + k] * w2[j * outputs + k];
    blamed[i] = hidden[i] > 0.0f ? sum : 0.0f;
}

// weights -= rate * from' by, over all samples.
kernel void learn(global float *weights, global const float *from, global const float *by, uint samples, float rate) {
    size_t k = get_global_id(0), j = get_global_id(1), outputs = get_global_size(0), inputs = get_global_size(1);
    float sum = 0.0f;
    for (uint sample = 0; sample < samples; sample++) sum += from[sample * inputs + j] * by[sample * outputs + k];
    weights[j * outputs + k] -= rate / (float)samples * sum;
}
