FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
ARG REVISION=unknown
ARG BRANCH=unknown
RUN info=github.com/prometheus/common/version && CGO_ENABLED=0 go build -trimpath \
    -ldflags "-s -w -X $info.Version=${VERSION} -X $info.Revision=${REVISION} -X $info.Branch=${BRANCH}" -o /out/ ./cmd/aegis ./cmd/aegis-op

# Nothing but two programs: the service, and what the step Jobs run on a node, as root and with the tools of the host.
FROM scratch
COPY --from=build /out/aegis /out/aegis-op /
# Templates of the step Jobs. A volume mounted here replaces them, file by file.
COPY jobs/*_node.yaml /selfhealing/job/
USER 65532:65532
ENTRYPOINT ["/aegis"]
