/* Records when each kernel of a program ran: the CUDA driver loads this library where CUDA_INJECTION64_PATH names it, and at the
 * program's end $VSTAR_PROFILE has a line `start,end,name` for each kernel, in nanoseconds. CUPTI itself is opened at run time,
 * so that nothing is needed to build or to load this but its headers. */

#include <cupti.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum { BUFFER = 8 << 20 };

static FILE *out;
static CUptiResult (*flush_all)(uint32_t);
static CUptiResult (*next_record)(uint8_t *, size_t, CUpti_Activity **);

static void CUPTIAPI requested(uint8_t **buffer, size_t *size, size_t *max_records) {
  *buffer = aligned_alloc(8, BUFFER);
  *size = *buffer ? BUFFER : 0;
  *max_records = 0;
}

static void CUPTIAPI completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
  (void)context, (void)stream, (void)size;
  CUpti_Activity *record = NULL;
  while (valid && next_record(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const CUpti_ActivityKernel10 *kernel = (const CUpti_ActivityKernel10 *)record;
    fprintf(out, "%llu,%llu,%s\n", (unsigned long long)kernel->start, (unsigned long long)kernel->end, kernel->name ? kernel->name : "?");
  }
  free(buffer);
}

static void at_end(void) {
  flush_all(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  fclose(out);
}

/* What the driver calls once it is up. */
int InitializeInjection(void) {
  static const char *const names[] = {"libcupti.so.13", "libcupti.so.12", "libcupti.so", NULL};
  const char *file = getenv("VSTAR_PROFILE");
  void *cupti = NULL;
  for (int i = 0; !cupti && names[i]; i++) cupti = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!cupti || !file || !(out = fopen(file, "w"))) {
    fprintf(stderr, "no profile: %s\n", cupti ? "VSTAR_PROFILE names no file that can be written" : "libcupti is not found");
    return 1;
  }
  CUptiResult (*enable)(CUpti_ActivityKind) = dlsym(cupti, "cuptiActivityEnable");
  CUptiResult (*callbacks)(CUpti_BuffersCallbackRequestFunc, CUpti_BuffersCallbackCompleteFunc) = dlsym(cupti, "cuptiActivityRegisterCallbacks");
  flush_all = dlsym(cupti, "cuptiActivityFlushAll");
  next_record = dlsym(cupti, "cuptiActivityGetNextRecord");
  if (!enable || !callbacks || !flush_all || !next_record || callbacks(requested, completed) != CUPTI_SUCCESS ||
      enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS) {
    fprintf(stderr, "no profile: CUPTI refuses\n");
    return 1;
  }
  atexit(at_end);
  return 1;
}
