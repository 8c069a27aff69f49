// SPDX-License-Identifier: GPL-2.0
/*
 * The module's tracepoints come into being here.
 */
#include "espintcp.h"

#define CREATE_TRACE_POINTS
#include "trace.h"
