// ViennaCL: a sparse system of equations solved by conjugate gradients, and dense products, on OpenCL.
#include <viennacl/compressed_matrix.hpp>
#include <viennacl/linalg/cg.hpp>
#include <viennacl/linalg/prod.hpp>
#include <viennacl/matrix.hpp>
#include <viennacl/ocl/backend.hpp>
#include <viennacl/vector.hpp>

#include <cmath>
#include <cstdio>
#include <map>
#include <vector>

int main() {
    viennacl::ocl::set_context_platform_index(0, 0);
    // Poisson's equation on a square.
    const int side = 40, size = side * side;
    std::vector<std::map<unsigned, float>> rows(size);
    for (int at = 0; at < size; at++) {
        rows[at][at] = 4;
        if (at % side > 0) rows[at][at - 1] = -1;
        if (at % side < side - 1) rows[at][at + 1] = -1;
        if (at >= side) rows[at][at - side] = -1;
        if (at < size - side) rows[at][at + side] = -1;
    }
    std::vector<float> load(size, 1.0f), found(size);
    viennacl::compressed_matrix<float> matrix(size, size);
    viennacl::vector<float> right(size), solution(size);
    viennacl::copy(rows, matrix);
    viennacl::copy(load, right);
    solution = viennacl::linalg::solve(matrix, right, viennacl::linalg::cg_tag(1e-6, 500));
    viennacl::copy(solution, found);
    double worst = 0;
    for (int at = 0; at < size; at++) {
        double sum = 0;
        for (auto entry : rows[at]) sum += entry.second * found[entry.first];
        if (!(std::fabs(sum - load[at]) <= worst)) worst = std::fabs(sum - load[at]);
    }
    std::printf("sparse system: %s, middle %.2f\n", worst < 1e-2 ? "solved" : "not solved", found[size / 2 + side / 2]);

    const int n = 48;
    std::vector<std::vector<float>> a(n, std::vector<float>(n)), b(a), c(a);
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) a[i][j] = std::sin(i + 2.0f * j), b[i][j] = std::cos(3.0f * i - j);
    viennacl::matrix<float> on_a(n, n), on_b(n, n), on_c(n, n);
    viennacl::copy(a, on_a);
    viennacl::copy(b, on_b);
    on_c = viennacl::linalg::prod(on_a, viennacl::trans(on_b));
    viennacl::copy(on_c, c);
    double off = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int k = 0; k < n; k++) sum += double(a[i][k]) * b[j][k];
            if (!(std::fabs(sum - c[i][j]) <= off)) off = std::fabs(sum - c[i][j]);
        }
    std::printf("dense product: %s\n", off < 1e-4 ? "right" : "wrong");
    return worst < 1e-2 && off < 1e-4 ? 0 : 1;
}
