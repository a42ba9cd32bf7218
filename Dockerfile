FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=unknown
ARG REVISION=unknown
ARG BRANCH=unknown
RUN info=github.com/prometheus/common/version && CGO_ENABLED=0 go build -trimpath \
    -ldflags "-s -w -X $info.Version=${VERSION} -X $info.Revision=${REVISION} -X $info.Branch=${BRANCH}" -o /aegis ./cmd/aegis

# Nothing but the binary: `aegis op` runs the tools of the host.
FROM scratch
COPY --from=build /aegis /aegis
# Templates of the step Jobs. A volume mounted here replaces them, file by file.
COPY jobs/*_node.yaml /selfhealing/job/
USER 65532:65532
ENTRYPOINT ["/aegis"]
