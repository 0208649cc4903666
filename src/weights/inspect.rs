/*! Todo. */
