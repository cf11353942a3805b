"""The small model of the course's tests."""

from tests.course.conftest import tiny_storybook as tiny_storybook
