/* clFFT: a two-dimensional transform, checked against the sum that defines it, and back. */
#include <clFFT.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define ROWS 24
#define COLUMNS 32
#define COUNT (ROWS * COLUMNS)

static void must(int code, const char *what) {
    if (code != 0) {
        printf("%s: %d\n", what, code);
        exit(1);
    }
}

int main(void) {
    static float given[2 * COUNT], got[2 * COUNT];
    cl_platform_id platform;
    cl_device_id device;
    cl_int code;
    must(clGetPlatformIDs(1, &platform, NULL), "platforms");
    must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL), "devices");
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
    must(code, "context");
    cl_command_queue queue = clCreateCommandQueueWithProperties(context, device, NULL, &code);
    must(code, "queue");
    for (int i = 0; i < 2 * COUNT; i++) given[i] = (float)((i * 7919) % 1009) / 1009.0f - 0.5f;
    cl_mem memory = clCreateBuffer(context, CL_MEM_READ_WRITE | CL_MEM_COPY_HOST_PTR, sizeof given, given, &code);
    must(code, "buffer");

    clfftSetupData setup;
    must(clfftInitSetupData(&setup), "setup data");
    must(clfftSetup(&setup), "setup");
    clfftPlanHandle plan;
    size_t lengths[] = {COLUMNS, ROWS};
    must(clfftCreateDefaultPlan(&plan, context, CLFFT_2D, lengths), "plan");
    must(clfftSetPlanPrecision(plan, CLFFT_SINGLE), "precision");
    must(clfftSetLayout(plan, CLFFT_COMPLEX_INTERLEAVED, CLFFT_COMPLEX_INTERLEAVED), "layout");
    must(clfftSetResultLocation(plan, CLFFT_INPLACE), "place");
    must(clfftBakePlan(plan, 1, &queue, NULL, NULL), "bake");

    must(clfftEnqueueTransform(plan, CLFFT_FORWARD, 1, &queue, 0, NULL, NULL, &memory, NULL, NULL), "forward");
    must(clEnqueueReadBuffer(queue, memory, CL_TRUE, 0, sizeof got, got, 0, NULL, NULL), "read");
    double largest = 0;
    for (int at = 0; at < COUNT; at += 37) {
        double real = 0, imaginary = 0;
        for (int i = 0; i < COUNT; i++) {
            double turn = (double)(at / COLUMNS * (i / COLUMNS)) / ROWS + (double)(at % COLUMNS * (i % COLUMNS)) / COLUMNS;
            double c = cos(2 * M_PI * turn), s = -sin(2 * M_PI * turn);
            real += given[2 * i] * c - given[2 * i + 1] * s;
            imaginary += given[2 * i] * s + given[2 * i + 1] * c;
        }
        double off = hypot(real - got[2 * at], imaginary - got[2 * at + 1]);
        if (!(off <= largest)) largest = off;
    }
    printf("forward: %s\n", largest < 1e-3 ? "as the sum has it" : "wrong");

    must(clfftEnqueueTransform(plan, CLFFT_BACKWARD, 1, &queue, 0, NULL, NULL, &memory, NULL, NULL), "backward");
    must(clEnqueueReadBuffer(queue, memory, CL_TRUE, 0, sizeof got, got, 0, NULL, NULL), "read");
    double back = 0;
    for (int i = 0; i < 2 * COUNT; i++)
        if (!(fabs(got[i] - given[i]) <= back)) back = fabs(got[i] - given[i]);
    printf("and back: %s\n", back < 1e-5 ? "what was given" : "wrong");
    must(clfftDestroyPlan(&plan), "destroy");
    clfftTeardown();
    return largest < 1e-3 && back < 1e-5 ? 0 : 1;
}
