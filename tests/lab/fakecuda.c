/* A CUDA driver without a GPU, for tests: what a program with CUDA links (libcuda.so.1).
 *
 * Each call says that there is no device (CUDA_ERROR_NO_DEVICE, cuda.h). The names are those that
 * llama.cpp's kernels link; the runtime library (libcudart), which opens this one by itself, misses
 * the rest and says that the driver is too old, which to a program is the same: no device.
 */
#define NO_DEVICE 100
#define CALL(name) \
    __attribute__((visibility("default"))) int name(void); \
    int name(void) { return NO_DEVICE; }

CALL(cuInit)
CALL(cuDeviceGet)
CALL(cuDeviceGetAttribute)
CALL(cuGetErrorString)
CALL(cuMemAddressFree)
CALL(cuMemAddressReserve)
CALL(cuMemCreate)
CALL(cuMemGetAllocationGranularity)
CALL(cuMemMap)
CALL(cuMemRelease)
CALL(cuMemSetAccess)
CALL(cuMemUnmap)
