/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A count of the objects that are made and destroyed, in debug builds ("make
 * ESPINTCP_CENSUS=y"): each kind of them is to come out even when the module is
 * unloaded. Elsewhere these are nothing.
 */
#ifndef ESPINTCP_CENSUS_H
#define ESPINTCP_CENSUS_H

#include <linux/types.h>

/**
 * enum espintcp_object - what has a life of its own
 * @ESPINTCP_OBJECT_CONN: struct espintcp_conn
 * @ESPINTCP_OBJECT_FRAME: struct espintcp_frame and its memory
 * @ESPINTCP_OBJECT_PATH: struct espintcp_path
 * @ESPINTCP_OBJECT_REQUEST: struct espintcp_request
 * @ESPINTCP_OBJECT_LISTENER: a socket that listens with the ULP "iketcp"
 * @ESPINTCP_OBJECT_CANDIDATE: a connection on its way to such a socket's accept()
 * @ESPINTCP_OBJECTS: how many there are
 */
enum espintcp_object {
	ESPINTCP_OBJECT_CONN,
	ESPINTCP_OBJECT_FRAME,
	ESPINTCP_OBJECT_PATH,
	ESPINTCP_OBJECT_REQUEST,
	ESPINTCP_OBJECT_LISTENER,
	ESPINTCP_OBJECT_CANDIDATE,
	ESPINTCP_OBJECTS,
};

#ifdef ESPINTCP_CENSUS
void espintcp_made(enum espintcp_object object);
void espintcp_gone(enum espintcp_object object);
void espintcp_census_exit(void);
#else
static inline void espintcp_made(enum espintcp_object object) {}
static inline void espintcp_gone(enum espintcp_object object) {}
static inline void espintcp_census_exit(void) {}
#endif

#endif
