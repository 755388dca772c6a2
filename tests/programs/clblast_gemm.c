/* CLBlast: a matrix product, a matrix and a vector, and a dot product, checked against plain loops. */
#include <clblast_c.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define M 96
#define N 80
#define K 64

static void must(int code, const char *what) {
    if (code != 0) {
        printf("%s: %d\n", what, code);
        exit(1);
    }
}

static float next(void) {
    static unsigned state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 16) / 65536.0f - 0.5f;
}

static void check(const char *what, const float *got, const double *expected, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) {
        if (!(fabs(got[i] - expected[i]) <= 1e-4)) {
            printf("%s: %d is %g instead of %g\n", what, i, got[i], expected[i]);
            exit(1);
        }
        sum += got[i];
    }
    printf("%s: %d values, sum %.3f\n", what, count, sum);
}

int main(void) {
    static float a[M * K], b[K * N], c[M * N], y[M], dot;
    static double expected[M * N];
    cl_platform_id platform;
    cl_device_id device;
    cl_int code;
    must(clGetPlatformIDs(1, &platform, NULL), "platforms");
    must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "devices");
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
    must(code, "context");
    cl_command_queue queue = clCreateCommandQueueWithProperties(context, device, NULL, &code);
    must(code, "queue");
    for (int i = 0; i < M * K; i++) a[i] = next();
    for (int i = 0; i < K * N; i++) b[i] = next();
    cl_mem_flags copy = CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR;
    cl_mem on_a = clCreateBuffer(context, copy, sizeof a, a, &code);
    cl_mem on_b = clCreateBuffer(context, copy, sizeof b, b, &code);
    /* With contents, because CLBlast reads what it multiplies by 0. */
    cl_mem on_c = clCreateBuffer(context, copy, sizeof c, c, &code);
    cl_mem on_y = clCreateBuffer(context, copy, sizeof y, y, &code);
    must(code, "buffers");

    must(CLBlastSgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeNo, M, N, K, 1.0f, on_a, 0, K, on_b, 0, N,
                      0.0f, on_c, 0, N, &queue, NULL), "gemm");
    must(clEnqueueReadBuffer(queue, on_c, CL_TRUE, 0, sizeof c, c, 0, NULL, NULL), "read");
    for (int i = 0; i < M * N; i++) {
        expected[i] = 0;
        for (int k = 0; k < K; k++) expected[i] += (double)a[i / N * K + k] * b[k * N + i % N];
    }
    check("matrix product", c, expected, M * N);

    must(CLBlastSgemv(CLBlastLayoutRowMajor, CLBlastTransposeNo, M, K, 2.0f, on_a, 0, K, on_b, 0, 1, 0.0f, on_y, 0, 1, &queue,
                      NULL), "gemv");
    must(clEnqueueReadBuffer(queue, on_y, CL_TRUE, 0, sizeof y, y, 0, NULL, NULL), "read");
    for (int i = 0; i < M; i++) {
        expected[i] = 0;
        for (int k = 0; k < K; k++) expected[i] += 2.0 * a[i * K + k] * b[k];
    }
    check("matrix and vector", y, expected, M);

    must(CLBlastSdot(K * N, on_y, 0, on_a, 0, 1, on_b, 0, 1, &queue, NULL), "dot");
    must(clEnqueueReadBuffer(queue, on_y, CL_TRUE, 0, sizeof dot, &dot, 0, NULL, NULL), "read");
    expected[0] = 0;
    for (int i = 0; i < K * N; i++) expected[0] += (double)a[i] * b[i];
    check("dot product", &dot, expected, 1);
    return 0;
}
