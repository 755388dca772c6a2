// The picture at another size, through a linear sampler with coordinates from 0 to 1.
kernel void scale(read_only image2d_t from, write_only image2d_t to, sampler_t by) {
    int2 at = (int2)(get_global_id(0), get_global_id(1));
    float2 size = convert_float2(get_image_dim(to));
    write_imagef(to, at, read_imagef(from, by, (convert_float2(at) + 0.5f) / size));
}

// The mean of three by three elements; beyond the edges, of those on the edge.
kernel void blur(read_only image2d_t from, write_only image2d_t to, sampler_t by) {
    int2 at = (int2)(get_global_id(0), get_global_id(1));
    uint4 sum = 0;
    for (int y = -1; y <= 1; ++y)
        for (int x = -1; x <= 1; ++x) sum += read_imageui(from, by, at + (int2)(x, y));
    write_imageui(to, at, sum / 9);
}

// What lies in the volume along its diagonals; zero outside.
kernel void cut(read_only image3d_t from, global float *to) {
    const sampler_t by = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP | CLK_FILTER_NEAREST;
    int x = get_global_id(0), y = get_global_id(1);
    to[y * get_global_size(0) + x] = read_imagef(from, by, (int4)(x, y, x + y, 0)).x;
}

kernel void number(write_only image2d_array_t to) {
    int4 at = (int4)(get_global_id(0), get_global_id(1), get_global_id(2), 0);
    write_imageui(to, at, (uint4)(at.x, at.y, at.z, get_image_array_size(to)));
}

// The factor comes from a buffer: PoCL 3.1 crashes where an image in a buffer is the only argument.
kernel void count(write_only image1d_buffer_t to, global const uint *factor) {
    int at = get_global_id(0);
    write_imageui(to, at, (uint4)(at * factor[0]));
}
