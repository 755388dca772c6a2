// A small ray tracer: spheres on a checkered floor, with shadows and mirrors. One work-item is one pixel.

#define SPHERES 6
#define BOUNCES 4

typedef struct { float3 centre; float radius; float3 colour; float mirror; } sphere_t;

sphere_t sphere(int i) {
    sphere_t s;
    float angle = 1.0471976f * (float)i;
    s.centre = (float3)(2.3f * cos(angle), 0.7f, 2.3f * sin(angle) + 6.0f);
    s.radius = 0.7f;
    s.colour = (float3)(0.55f + 0.4f * cos(angle), 0.55f + 0.4f * cos(angle + 2.1f), 0.55f + 0.4f * cos(angle + 4.2f));
    s.mirror = 0.25f;
    if (i == SPHERES - 1) {
        s.centre = (float3)(0.0f, 1.3f, 6.0f);
        s.radius = 1.3f;
        s.colour = (float3)(0.9f, 0.9f, 0.95f);
        s.mirror = 0.75f;
    }
    return s;
}

// Distance along the ray to the sphere, or a huge number.
float hit_sphere(float3 origin, float3 direction, sphere_t s) {
    float3 to = origin - s.centre;
    float b = dot(to, direction);
    float c = dot(to, to) - s.radius * s.radius;
    float d = b * b - c;
    if (d < 0.0f) return 1e30f;
    float t = -b - sqrt(d);
    return t > 0.001f ? t : 1e30f;
}

float3 sky(float3 direction) {
    float up = clamp(direction.y, 0.0f, 1.0f);
    return (float3)(0.75f - 0.55f * up, 0.85f - 0.45f * up, 1.0f - 0.2f * up);
}

float3 trace(float3 origin, float3 direction) {
    const float3 sun = (float3)(0.48038f, 0.76861f, -0.42273f);
    float3 light = (float3)(0.0f);
    float weight = 1.0f;
    for (int bounce = 0; bounce < BOUNCES; ++bounce) {
        float nearest = 1e30f;
        int which = -1;
        for (int i = 0; i < SPHERES; ++i) {
            float t = hit_sphere(origin, direction, sphere(i));
            if (t < nearest) { nearest = t; which = i; }
        }
        if (direction.y < -0.0001f && -origin.y / direction.y < nearest) {
            nearest = -origin.y / direction.y;
            which = SPHERES;
        }
        if (which < 0 || nearest > 60.0f) {
            light += weight * sky(direction);
            break;
        }
        float3 at = origin + nearest * direction;
        float3 normal = (float3)(0.0f, 1.0f, 0.0f);
        float3 colour;
        float mirror = 0.12f;
        if (which == SPHERES) {
            int checker = ((int)floor(at.x) + (int)floor(at.z)) & 1;
            colour = checker ? (float3)(0.9f, 0.88f, 0.82f) : (float3)(0.16f, 0.2f, 0.26f);
        } else {
            sphere_t s = sphere(which);
            normal = (at - s.centre) / s.radius;
            colour = s.colour;
            mirror = s.mirror;
        }
        float3 lifted = at + 0.002f * normal;
        float lit = fmax(dot(normal, sun), 0.0f);
        for (int i = 0; i < SPHERES; ++i) {
            if (hit_sphere(lifted, sun, sphere(i)) < 1e29f) lit = 0.0f;
        }
        light += weight * (1.0f - mirror) * (0.25f + 0.75f * lit) * colour;
        weight *= mirror;
        direction = direction - 2.0f * dot(direction, normal) * normal;
        origin = lifted;
    }
    return light;
}

uchar channel(float value) { return (uchar)(255.0f * sqrt(clamp(value, 0.0f, 1.0f)) + 0.5f); }

// Four rays a pixel; writes RGBA bytes.
kernel void render(global uchar *out, int width, int height) {
    int x = get_global_id(0), y = get_global_id(1);
    float3 sum = (float3)(0.0f);
    for (int i = 0; i < 4; ++i) {
        float u = ((float)x + 0.25f + 0.5f * (float)(i & 1) - 0.5f * (float)width) / (float)height;
        float v = ((float)y + 0.25f + 0.5f * (float)(i >> 1) - 0.5f * (float)height) / (float)height;
        float3 direction = normalize((float3)(u, -v - 0.12f, 1.0f));
        sum += trace((float3)(0.0f, 2.0f, 0.0f), direction);
    }
    int at = 4 * (y * width + x);
    out[at] = channel(0.25f * sum.x);
    out[at + 1] = channel(0.25f * sum.y);
    out[at + 2] = channel(0.25f * sum.z);
    out[at + 3] = 255;
}

// Sharpens: the pixel twice, less the mean of its four neighbours, in whole numbers, so that every device agrees.
kernel void sharpen(global const uchar *in, global uchar *out, int width, int height) {
    int x = get_global_id(0), y = get_global_id(1);
    int left = max(x - 1, 0), right = min(x + 1, width - 1), up = max(y - 1, 0), down = min(y + 1, height - 1);
    for (int c = 0; c < 3; ++c) {
        int centre = in[4 * (y * width + x) + c];
        int around = in[4 * (y * width + left) + c] + in[4 * (y * width + right) + c] + in[4 * (up * width + x) + c]
            + in[4 * (down * width + x) + c];
        out[4 * (y * width + x) + c] = (uchar)clamp((8 * centre - around + 2) / 4, 0, 255);
    }
    out[4 * (y * width + x) + 3] = 255;
}
