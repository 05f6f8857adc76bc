/* Context variables of HEVC slice data: where each syntax element's lie, and their initial values (9.3.2.2). */
#ifndef OVB_HEVC_CONTEXTS_H
#define OVB_HEVC_CONTEXTS_H

#include <stdint.h>

/* name, number of contexts */
#define HEVC_CONTEXT_LIST(X)                                                                                     \
    X(SAO_MERGE, 1) X(SAO_TYPE, 1) X(SPLIT_CU, 3) X(BYPASS_CU, 1) X(SKIP, 3) X(PRED_MODE, 1) X(PART_MODE, 4)      \
    X(PREV_INTRA, 1) X(INTRA_CHROMA, 1) X(MERGE_FLAG, 1) X(MERGE_IDX, 1) X(INTER_IDC, 5) X(REF_IDX, 2)            \
    X(MVP, 1) X(ROOT_CBF, 1) X(SPLIT_TU, 3) X(CBF_LUMA, 2) X(CBF_CHROMA, 5) X(MVD_0, 1) X(MVD_1, 1)               \
    X(QP_DELTA, 2) X(CHROMA_QP_FLAG, 1) X(CHROMA_QP_IDX, 1) X(SKIP_TU, 2) X(LAST_X, 18) X(LAST_Y, 18)             \
    X(SUB_BLOCK, 4) X(SIG, 42) X(ABOVE_1, 24) X(ABOVE_2, 6)

enum hevc_context {
#define X(name, n) HEVC_##name, HEVC_##name##_LAST = HEVC_##name + n - 1,
    HEVC_CONTEXT_LIST(X)
#undef X
    HEVC_CONTEXTS
};

/* Set all; init_type 0 to 2 (9.3.2.2), qp: SliceQpY. */
void hevc_init_contexts(uint8_t *context, int init_type, int qp);

#endif
