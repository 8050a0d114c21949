/* engine/cuda/gpu_blas_lt.c - gpu_blas_lib.h by cuBLASLt.
 *
 * The library counts columns first: our row-major y[m][n] is its n x m matrix with leading dimension y_stride, and
 *
 *   y (n x m) = op(W) (n x k, W stored k x n) * X (k x m)
 *
 * the "TN" form, the one that its 8-bit products want.  Only the number of columns of X and Y changes from run to
 * run, which no alignment depends on: a class's algorithm serves all its row counts. */
#include "engine/cuda/gpu_blas_lib.h"

#include <cublasLt.h>
#include <pthread.h>
#include <stdio.h>

#include "base/log.h"
#include "base/mem.h"
#include "engine/cuda/gpu_lib.h"

enum { MAX_CANDIDATES = 8 };

static struct {
    GPU_LIB_CUBLAS_LT(GPU_LIB_MEMBER)
} lt;

/* Every rank of a process comes here; the first one loads. */
static enum err load(struct err_msg *msg)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static bool loaded;
    enum err err = ERR_OK;

    pthread_mutex_lock(&lock);
    if (!loaded)
        err = gpu_lib_load(&gpu_lib_cublas_lt, &lt, sizeof(lt), msg);
    loaded = err == ERR_OK;
    pthread_mutex_unlock(&lock);
    return err;
}

struct gpu_blas_lib {
    cublasLtHandle_t handle;
    void *workspace;
    uint32_t device_major;
};

struct gpu_blas_call {
    struct gpu_blas_lib *l;
    struct gpu_blas_product p;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, x, y;
    cublasLtMatmulHeuristicResult_t found[MAX_CANDIDATES];
    uint32_t chosen;
};

/* ---- open ---- */

enum err gpu_blas_lib_open(struct gpu *g, void *workspace, struct err_msg *msg,
                           struct gpu_blas_lib **out)
{
    enum err err = load(msg);
    struct gpu_blas_lib *l;
    cublasStatus_t status;

    if (err != ERR_OK)
        return err;
    if ((err = gpu_use(g)) != ERR_OK)
        return err_set(msg, err, "products: %s", gpu_trouble());
    l = mem_try_calloc(1, sizeof(*l));
    if (l == NULL)
        return err_set(msg, ERR_NOMEM, "products: out of host memory");
    l->workspace = workspace;
    l->device_major = gpu_info(g)->major;
    status = lt.cublasLtCreate(&l->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        mem_free(l);
        return err_set(msg, ERR_DEVICE, "products: cublasLtCreate: %s",
                       lt.cublasLtGetStatusString(status));
    }
    LOG_INFO("gpu", "cuBLASLt opened", "version=%zu", lt.cublasLtGetVersion());
    *out = l;
    return ERR_OK;
}

void gpu_blas_lib_close(struct gpu_blas_lib *l)
{
    if (l == NULL)
        return;
    if (!gpu_lost()) /* it waits for the device */
        (void)lt.cublasLtDestroy(l->handle);
    mem_free(l);
}

/* ---- one product ---- */

static cublasStatus_t set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t what,
                          const void *value, size_t bytes)
{
    return lt.cublasLtMatmulDescSetAttribute(desc, what, value, bytes);
}

static cublasStatus_t describe(struct gpu_blas_call *c)
{
    static const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    static const cublasLtEpilogue_t with_bias = CUBLASLT_EPILOGUE_BIAS;
    static const cublasLtMatmulMatrixScale_t by_row = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const struct gpu_blas_product *p = &c->p;
    cudaDataType half = p->dtype == GPU_BF16 ? CUDA_R_16BF : CUDA_R_16F;
    cudaDataType in = p->fp8 ? CUDA_R_8F_E4M3 : half, result = p->y_f32 ? CUDA_R_32F : half;
    cublasStatus_t s = lt.cublasLtMatmulDescCreate(&c->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);

    if (s == CUBLAS_STATUS_SUCCESS)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof(plain));
    if (s == CUBLAS_STATUS_SUCCESS && p->bias)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &with_bias, sizeof(with_bias));
    if (s == CUBLAS_STATUS_SUCCESS && p->bias)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &half, sizeof(half));
    if (s == CUBLAS_STATUS_SUCCESS && p->fp8)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &by_row, sizeof(by_row));
    if (s == CUBLAS_STATUS_SUCCESS && p->fp8)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &by_row, sizeof(by_row));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatrixLayoutCreate(&c->w, in, p->k, p->n, (int64_t)p->k);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatrixLayoutCreate(&c->x, in, p->k, p->rows, (int64_t)p->x_stride);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatrixLayoutCreate(&c->y, result, p->n, p->rows, (int64_t)p->y_stride);
    return s;
}

/* Pointers are part of the description: heuristics look whether they are there. */
static cublasStatus_t point_at(const struct gpu_blas_call *c, const struct gpu_blas_operands *o)
{
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;

    if (c->p.bias)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &o->bias, sizeof(o->bias));
    if (s == CUBLAS_STATUS_SUCCESS && c->p.fp8)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &o->w_scale, sizeof(o->w_scale));
    if (s == CUBLAS_STATUS_SUCCESS && c->p.fp8)
        s = set(c->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &o->x_scale, sizeof(o->x_scale));
    return s;
}

static cublasStatus_t ask(struct gpu_blas_call *c, int *found)
{
    static const uint64_t workspace = GPU_BLAS_WORKSPACE;
    /* Parts of a sum that is split along k are not rounded to 16 bits before they are added up. */
    static const uint32_t in_fp32 = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    static const uint32_t aligned16 =
        16; /* what every row starts at, at least; the header's default is 256 */
    static const cublasLtMatmulPreferenceAttributes_t operands[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    /* Somewhere in device memory: never read here, but a kernel may be chosen that relies on how the bias is aligned,
     * which in a part of a matrix is by no more than 16 bytes. */
    const struct gpu_blas_operands o = {.x_scale = c->l->workspace,
                                        .w_scale = c->l->workspace,
                                        .bias = (const uint16_t *)c->l->workspace + 8};
    cublasLtMatmulPreference_t want = NULL;
    cublasStatus_t s = point_at(c, &o);
    int listed = 0;

    *found = 0;
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatmulPreferenceCreate(&want);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatmulPreferenceSetAttribute(want, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &workspace, sizeof(workspace));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatmulPreferenceSetAttribute(
            want, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &in_fp32, sizeof(in_fp32));
    for (int i = 0; i < 4 && s == CUBLAS_STATUS_SUCCESS; i++)
        s = lt.cublasLtMatmulPreferenceSetAttribute(want, operands[i], &aligned16,
                                                    sizeof(aligned16));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatmulAlgoGetHeuristic(c->l->handle, c->desc, c->w, c->x, c->y, c->y, want,
                                              MAX_CANDIDATES, c->found, &listed);
    if (want != NULL)
        (void)lt.cublasLtMatmulPreferenceDestroy(want);
    for (int i = 0; i < listed && s == CUBLAS_STATUS_SUCCESS; i++) {
        if (c->found[i].state == CUBLAS_STATUS_SUCCESS)
            c->found[(*found)++] = c->found[i];
    }
    return s;
}

static bool means_unsupported(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE ||
           s == CUBLAS_STATUS_ARCH_MISMATCH;
}

enum err gpu_blas_call_create(struct gpu_blas_lib *l, const struct gpu_blas_product *p,
                              struct err_msg *msg, struct gpu_blas_call **out, uint32_t *n)
{
    struct gpu_blas_call *c;
    cublasStatus_t s;
    int found = 0;

    if (p->bias && p->y_f32)
        return err_set(msg, ERR_UNSUPPORTED,
                       "products of more than 16 rows: float results have no bias");
    c = mem_try_calloc(1, sizeof(*c));
    if (c == NULL)
        return err_set(msg, ERR_NOMEM, "products: out of host memory");
    c->l = l;
    c->p = *p;
    s = describe(c);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = ask(c, &found);
    if (s != CUBLAS_STATUS_SUCCESS || found == 0) {
        gpu_blas_call_free(c);
        return err_set(
            msg, s == CUBLAS_STATUS_SUCCESS || means_unsupported(s) ? ERR_UNSUPPORTED : ERR_DEVICE,
            "cuBLASLt %zu has no product %u x %u of %s with %u rows: %s", lt.cublasLtGetVersion(),
            p->n, p->k,
            p->fp8                 ? "e4m3"
            : p->dtype == GPU_BF16 ? "bf16"
                                   : "f16",
            p->rows, s == CUBLAS_STATUS_SUCCESS ? "no algorithm" : lt.cublasLtGetStatusString(s));
    }
    *out = c;
    *n = (uint32_t)found;
    return ERR_OK;
}

void gpu_blas_call_free(struct gpu_blas_call *c)
{
    if (c == NULL)
        return;
    if (c->y != NULL)
        (void)lt.cublasLtMatrixLayoutDestroy(c->y);
    if (c->x != NULL)
        (void)lt.cublasLtMatrixLayoutDestroy(c->x);
    if (c->w != NULL)
        (void)lt.cublasLtMatrixLayoutDestroy(c->w);
    if (c->desc != NULL)
        (void)lt.cublasLtMatmulDescDestroy(c->desc);
    mem_free(c);
}

void gpu_blas_call_choose(struct gpu_blas_call *c, uint32_t candidate)
{
    c->chosen = candidate;
}

enum err gpu_blas_call_run(struct gpu_blas_call *c, uint32_t rows,
                           const struct gpu_blas_operands *o, gpu_stream stream)
{
    static const float one = 1.0f, zero = 0.0f;
    uint64_t columns = rows;
    cublasStatus_t s = point_at(c, o);

    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatrixLayoutSetAttribute(c->x, CUBLASLT_MATRIX_LAYOUT_COLS, &columns,
                                                sizeof(columns));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatrixLayoutSetAttribute(c->y, CUBLASLT_MATRIX_LAYOUT_COLS, &columns,
                                                sizeof(columns));
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lt.cublasLtMatmul(c->l->handle, c->desc, &one, o->w, c->w, o->x, c->x,
                              c->p.add ? &one : &zero, o->y, c->y, o->y, c->y,
                              &c->found[c->chosen].algo, c->l->workspace, GPU_BLAS_WORKSPACE,
                              stream);
    if (means_unsupported(s)) /* this candidate, these numbers: nothing was launched */
        return ERR_UNSUPPORTED;
    return s == CUBLAS_STATUS_SUCCESS ? ERR_OK
                                      : gpu_fail("cublasLtMatmul", lt.cublasLtGetStatusString(s));
}
